"""Memory in known patterns: how each is planted, and what must be said of it.

Needs no compiler: blocks come from malloc through ctypes, objects from Python. Nothing is cleared up: once in a process.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_rssguard.model import Account, Outcome

#: Blocks of 1,000 bytes, chunks of 1,008 in glibc: 15.75 MiB.
_BLOCKS: Final = 16_384
_CHUNK: Final = 1_008
#: Of the same blocks: how many are freed on pages that the others hold, 8.9 MiB by 2.95 MiB.
_PINNED: Final = 9_216
_PINNING: Final = 3_072
#: Floats of 24 bytes, blocks of 32 in pymalloc: 15.3 MiB.
FLOATS: Final = 500_000
_FLOAT: Final = 32
_MAPPING: Final = 16 << 20
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


class Ground:
    """The C library, and tables that were touched before anything is measured: filling them is no growth."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None)
        self.libc.malloc.restype = ctypes.c_void_p
        self.libc.malloc.argtypes = [ctypes.c_size_t]
        self.libc.free.argtypes = [ctypes.c_void_p]
        self.libc.free.restype = None
        self.blocks = (ctypes.c_void_p * _BLOCKS)(*[1] * _BLOCKS)
        self.objects: list[Any] = [None] * FLOATS
        self.mapping: mmap.mmap | None = None
        self.in_main_heap = False
        # fixed, or one freed buffer of the import before would decide how much free() keeps (mallopt(3))
        self.set_option(_M_MMAP_THRESHOLD, 128 << 10)
        self.set_option(_M_TRIM_THRESHOLD, 128 << 10)

    def set_option(self, option: int, value: int) -> None:
        """Call mallopt, where there is one."""
        if hasattr(self.libc, "mallopt"):
            self.libc.mallopt(option, value)

    def touched(self, size: int) -> int:
        """Return the address of a block of `size` bytes, every byte written."""
        block = int(self.libc.malloc(size))
        ctypes.memset(block, 1, size)
        return block

    def fill(self) -> None:
        """Fill the table with blocks."""
        for index in range(_BLOCKS):
            self.blocks[index] = self.touched(1_000)

    def free(self) -> None:
        """Free all blocks of the table."""
        for block in self.blocks:
            self.libc.free(block)

    def map(self) -> mmap.mmap:
        """Return a private anonymous mapping, every page written."""
        found = mmap.mmap(-1, _MAPPING, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, _MAPPING, mmap.PAGESIZE):
            found[at] = 1
        return found


def _nothing(_: Ground) -> None:
    pass


def _leak(ground: Ground) -> None:
    ground.fill()


def _leak_objects(ground: Ground) -> None:
    for index in range(FLOATS):
        ground.objects[index] = float(index)


def _leak_mapping(ground: Ground) -> None:
    ground.mapping = ground.map()


def _free_lazily(ground: Ground) -> None:
    ground.mapping = ground.map()
    ground.mapping.madvise(mmap.MADV_FREE)


def _unmap_and_leak(ground: Ground) -> None:
    assert ground.mapping is not None
    ground.mapping.close()
    ground.fill()


def _pin_arenas(ground: Ground) -> None:
    _leak_objects(ground)
    for index in range(FLOATS):
        if index % 2_000:
            ground.objects[index] = None


def _leak_into_arenas(ground: Ground) -> None:
    for index in range(FLOATS):
        if index % 2_000:
            ground.objects[index] = float(index)


def _free_under_a_block(ground: Ground) -> None:
    ground.fill()
    last = max(ground.blocks)
    for _ in range(64):  # until no hole is left that could take it; another malloc may sort by size and never get there
        if int(ground.libc.malloc(100_000)) > last:
            break
    ground.free()


def _use_up_holes(ground: Ground) -> None:
    """Take the holes that the blocks to come would fit in, so that those lie side by side."""
    for _ in range(4_096):
        ground.libc.malloc(1_000)


def _free_all_but_every_fourth(ground: Ground) -> None:
    """Free three of four chunks of 1,008 bytes: a live one is on every page, since they are 4,032 bytes apart."""
    for index in range(_PINNED + _PINNING):
        ground.blocks[index] = ground.touched(1_000)
    for index in range(_PINNED + _PINNING):
        if index % 4:
            ground.libc.free(ground.blocks[index])


def _keep_tops(ground: Ground) -> None:
    """Let glibc keep up to 62 MiB at the end of a heap, as it does after one block of 31 MiB was freed."""
    ground.set_option(_M_TRIM_THRESHOLD, 62 << 20)


def _free_in_a_thread(ground: Ground) -> None:
    def work() -> None:
        ground.fill()
        ground.free()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ground.in_main_heap = _in_main_heap(ground.blocks[_BLOCKS // 2] or 0)


def _in_main_heap(address: int) -> bool:
    found = re.search(
        r"^([0-9a-f]+)-([0-9a-f]+) .*\[heap\]$", Path("/proc/self/maps").read_text(encoding="ascii"), re.MULTILINE
    )
    return bool(found and int(found[1], 16) <= address < int(found[2], 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """One pattern: how it is made, and what must be said of it.

    `planted` bytes stand on `account`; `kept` bytes stay live beside them.
    """

    name: str
    body: Callable[[Ground], None]
    outcome: Outcome
    prepare: Callable[[Ground], None] = _nothing
    account: Account | None = None
    planted: int = 0
    kept: int = 0
    masked: bool = False
    needs_pools: bool = False


_M, _P = Account.MALLOC_LIVE, Account.PYTHON_LIVE
PLANTS: Final = (
    Plant(name="nothing", body=_nothing, outcome=Outcome.RETURNED),
    Plant(name="leak", body=_leak, outcome=Outcome.LEAKED, account=_M, planted=_BLOCKS * _CHUNK),
    Plant(
        name="leak of objects", body=_leak_objects, outcome=Outcome.LEAKED,
        account=_P, planted=FLOATS * _FLOAT, needs_pools=True,
    ),
    Plant(name="leak of a mapping", body=_leak_mapping, outcome=Outcome.LEAKED, account=Account.MAPPED, planted=_MAPPING),
    Plant(
        name="masked leak", prepare=_free_lazily, body=_unmap_and_leak, outcome=Outcome.LEAKED,
        account=_M, planted=_BLOCKS * _CHUNK, masked=True,
    ),
    Plant(
        name="masked leak of objects", prepare=_pin_arenas, body=_leak_into_arenas, outcome=Outcome.LEAKED,
        account=_P, planted=FLOATS * _FLOAT, masked=True, needs_pools=True,
    ),
    Plant(
        name="trimmable", body=_free_under_a_block, outcome=Outcome.RETAINED,
        account=Account.TRIMMABLE, planted=_BLOCKS * _CHUNK,
    ),
    Plant(
        name="pinned", prepare=_use_up_holes, body=_free_all_but_every_fourth, outcome=Outcome.RETAINED,
        account=Account.PINNED, planted=_PINNED * _CHUNK, kept=_PINNING * _CHUNK,
    ),
    Plant(
        name="arena top", prepare=_keep_tops, body=_free_in_a_thread, outcome=Outcome.RETAINED,
        account=Account.ARENA_TOP, planted=_BLOCKS * _CHUNK,
    ),
    Plant(
        name="pool-free", body=_pin_arenas, outcome=Outcome.RETAINED,
        account=Account.POOL_FREE, planted=FLOATS * _FLOAT, needs_pools=True,
    ),
)  # fmt: skip
