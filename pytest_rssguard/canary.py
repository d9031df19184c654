"""Plant memory in known patterns and require the right answer: the proof that the guard can fail on this machine.

Run as `python -m pytest_rssguard.canary NAME` in a fresh process: plants one pattern between two readings of the guard
and prints what it said, as JSON. `assess` compares that with the bytes that were planted. Needs no compiler: blocks come
from malloc through ctypes, objects from Python.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pytest_rssguard.api import measure
from pytest_rssguard.model import RETAINED, Account, Outcome
from pytest_rssguard.units import format_size

TOLERANCE: Final = 4 << 20
#: Blocks of 1,000 bytes, chunks of 1,008 in glibc: 15.75 MiB.
_BLOCKS: Final = 16_384
_CHUNK: Final = 1_008
#: Floats of 24 bytes, blocks of 32 in pymalloc: 15.3 MiB.
_FLOATS: Final = 500_000
_FLOAT: Final = 32
_MAPPING: Final = 16 << 20
#: What may be on top of the planted bytes: page ends, the objects of the measurement, glibc's own data.
_SLACK: Final = 256 << 10
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


class Answer(StrEnum):
    """How what was found compares with what was planted."""

    RIGHT = "right"
    COARSE = "coarse"
    WRONG = "WRONG"
    BLIND = "blind"
    ABSENT = "not here"

    @property
    def passes(self) -> bool:
        """Whether it speaks for the guard. A plant that cannot exist here says nothing about it."""
        return self in {Answer.RIGHT, Answer.COARSE, Answer.ABSENT}


class _Ground:
    """The C library, and tables that were touched before anything is measured: filling them is no growth."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None)
        self.libc.malloc.restype = ctypes.c_void_p
        self.libc.malloc.argtypes = [ctypes.c_size_t]
        self.libc.free.argtypes = [ctypes.c_void_p]
        self.libc.free.restype = None
        self.blocks = (ctypes.c_void_p * _BLOCKS)(*[1] * _BLOCKS)
        self.objects: list[Any] = [None] * _FLOATS
        self.mapping: mmap.mmap | None = None
        self.in_main_heap = False
        # fixed, or one freed buffer of the import before would decide how much free() keeps (mallopt(3))
        self.set_option(_M_MMAP_THRESHOLD, 128 << 10)
        self.set_option(_M_TRIM_THRESHOLD, 128 << 10)

    def set_option(self, option: int, value: int) -> None:
        if hasattr(self.libc, "mallopt"):
            self.libc.mallopt(option, value)

    def touched(self, size: int) -> int:
        block = int(self.libc.malloc(size))
        ctypes.memset(block, 1, size)
        return block

    def fill(self, size: int = 1_000) -> None:
        for index in range(_BLOCKS):
            self.blocks[index] = self.touched(size)

    def free(self) -> None:
        for block in self.blocks:
            self.libc.free(block)

    def map(self) -> mmap.mmap:
        found = mmap.mmap(-1, _MAPPING, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, _MAPPING, mmap.PAGESIZE):
            found[at] = 1
        return found


def _nothing(_: _Ground) -> None:
    pass


def _leak(ground: _Ground) -> None:
    ground.fill()


def _leak_objects(ground: _Ground) -> None:
    for index in range(_FLOATS):
        ground.objects[index] = float(index)


def _leak_mapping(ground: _Ground) -> None:
    ground.mapping = ground.map()


def _free_lazily(ground: _Ground) -> None:
    ground.mapping = ground.map()
    ground.mapping.madvise(mmap.MADV_FREE)


def _unmap_and_leak(ground: _Ground) -> None:
    assert ground.mapping is not None
    ground.mapping.close()
    ground.fill()


def _pin_arenas(ground: _Ground) -> None:
    _leak_objects(ground)
    for index in range(_FLOATS):
        if index % 2_000:
            ground.objects[index] = None


def _leak_into_arenas(ground: _Ground) -> None:
    for index in range(_FLOATS):
        if index % 2_000:
            ground.objects[index] = float(index)


def _free_under_a_block(ground: _Ground) -> None:
    ground.fill()
    last = max(ground.blocks)
    while int(ground.libc.malloc(100_000)) < last:  # until no hole is left that could take it
        pass
    ground.free()


def _use_up_holes(ground: _Ground) -> None:
    """Take what smaller holes there are, so that the pairs to come lie side by side."""
    for _ in range(40_000):
        ground.libc.malloc(100)


def _free_the_large(ground: _Ground) -> None:
    """Fill pages with one chunk of 3,904 bytes and one of 112 each, and free the large: a live one is on every page."""
    for index in range(_BLOCKS // 4):
        ground.blocks[index] = ground.touched(3_896)
        ground.touched(100)
    for index in range(_BLOCKS // 4):
        ground.libc.free(ground.blocks[index])


def _keep_tops(ground: _Ground) -> None:
    """Let glibc keep up to 62 MiB at the end of a heap, as it does after one block of 31 MiB was freed."""
    ground.set_option(_M_TRIM_THRESHOLD, 62 << 20)


def _free_in_a_thread(ground: _Ground) -> None:
    def work() -> None:
        ground.fill()
        ground.free()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ground.in_main_heap = _in_main_heap(ground.blocks[_BLOCKS // 2])


def _in_main_heap(address: int) -> bool:
    found = re.search(r"^([0-9a-f]+)-([0-9a-f]+) .*\[heap\]$", Path("/proc/self/maps").read_text(encoding="ascii"), re.M)
    return bool(found and int(found[1], 16) <= address < int(found[2], 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """One pattern: how it is made, and what must be said of it. `planted` bytes stand on `account`."""

    name: str
    body: Callable[[_Ground], None]
    outcome: Outcome
    prepare: Callable[[_Ground], None] = _nothing
    account: Account | None = None
    planted: int = 0
    masked: bool = False
    needs_pools: bool = False

    @property
    def least(self) -> int:
        """The fewest bytes that may stand on the account: what fitted into holes from before is not new there."""
        return self.planted - self.planted // 50 - _SLACK if self.account else 0

    @property
    def most(self) -> int:
        """The most bytes that may stand on the account."""
        return self.planted + self.planted // 50 + _SLACK


_M, _P = Account.MALLOC_LIVE, Account.PYTHON_LIVE
PLANTS: Final = (
    Plant(name="nothing", body=_nothing, outcome=Outcome.RETURNED),
    Plant(name="leak", body=_leak, outcome=Outcome.LEAKED, account=_M, planted=_BLOCKS * _CHUNK),
    Plant(
        name="leak of objects", body=_leak_objects, outcome=Outcome.LEAKED,
        account=_P, planted=_FLOATS * _FLOAT, needs_pools=True,
    ),
    Plant(name="leak of a mapping", body=_leak_mapping, outcome=Outcome.LEAKED, account=Account.MAPPED, planted=_MAPPING),
    Plant(
        name="masked leak", prepare=_free_lazily, body=_unmap_and_leak, outcome=Outcome.LEAKED,
        account=_M, planted=_BLOCKS * _CHUNK, masked=True,
    ),
    Plant(
        name="masked leak of objects", prepare=_pin_arenas, body=_leak_into_arenas, outcome=Outcome.LEAKED,
        account=_P, planted=_FLOATS * _FLOAT, masked=True, needs_pools=True,
    ),
    Plant(
        name="trimmable", body=_free_under_a_block, outcome=Outcome.RETAINED,
        account=Account.TRIMMABLE, planted=_BLOCKS * _CHUNK,
    ),
    Plant(
        name="pinned", prepare=_use_up_holes, body=_free_the_large, outcome=Outcome.RETAINED,
        account=Account.PINNED, planted=_BLOCKS // 4 * 3_904,
    ),
    Plant(
        name="arena top", prepare=_keep_tops, body=_free_in_a_thread, outcome=Outcome.RETAINED,
        account=Account.ARENA_TOP, planted=_BLOCKS * _CHUNK,
    ),
    Plant(
        name="pool-free", body=_pin_arenas, outcome=Outcome.RETAINED,
        account=Account.POOL_FREE, planted=_FLOATS * _FLOAT, needs_pools=True,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the guard said of one plant. Sizes in bytes. `absent`: why the pattern cannot be made here, or ""."""

    outcome: str
    masked: bool = False
    why: str = ""
    growth: int = 0
    accounts: Mapping[str, int | None]
    problems: tuple[str, ...] = ()
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One plant, what was found, and what that is worth. `size`: bytes on the account, None where nobody divided them."""

    plant: Plant
    answer: Answer
    finding: Finding
    size: int | None = None
    said: tuple[str, ...] = ()


def find(plant: Plant) -> Finding:
    """Plant it in this process and return what the guard said. Once in a process: nothing is cleared up."""
    ground = _Ground()
    # CPython: 0 where pymalloc is not in force (sys.getallocatedblocks); asked of Python, not of our own probe
    if plant.needs_pools and not sys.getallocatedblocks():
        return Finding(outcome="", accounts={}, absent="Python's objects do not come from pymalloc here (PYTHONMALLOC)")
    plant.prepare(ground)
    with measure(TOLERANCE) as measured:
        plant.body(ground)
    if ground.in_main_heap:
        return Finding(outcome="", accounts={}, absent="threads have no heaps of their own here (MALLOC_ARENA_MAX=1)")
    result = measured.result
    return Finding(
        outcome=result.verdict.outcome.value, masked=result.verdict.masked, why=result.verdict.why, growth=result.growth,
        accounts={account.value: size for account, size in result.accounts.items()},
        problems=result.census.problems if result.census else (),
    )  # fmt: skip


def assess(plant: Plant, finding: Finding, *, census: bool) -> Check:
    """Return what `finding` is worth. `census`: whether this machine can divide freed heap memory; if not, it need not."""
    if finding.absent:
        return Check(plant=plant, answer=Answer.ABSENT, finding=finding, said=(finding.absent,))
    if finding.outcome == Outcome.UNMEASURABLE:
        return Check(plant=plant, answer=Answer.BLIND, finding=finding, said=(finding.why,))
    said = []
    if finding.outcome != plant.outcome:
        said.append(f"the verdict is {finding.outcome!r}{f' ({finding.why})' if finding.why else ''}")
    if finding.masked != plant.masked:
        said.append(f"RSS {'hides' if finding.masked else 'shows'} it, by its word")
    total = sum(size or 0 for size in finding.accounts.values())
    if total != finding.growth:
        said.append(f"the accounts sum to {total:,} B of {finding.growth:,} B of growth")
    unexplained = finding.accounts.get(Account.UNEXPLAINED) or 0
    if abs(unexplained) > abs(finding.growth) // 100 + _SLACK:
        said.append(f"{format_size(unexplained)} unexplained")
    if census:
        said.extend(finding.problems)
    size = finding.growth if plant.account is None else finding.accounts.get(plant.account)
    coarse = not census and size is None and plant.account in RETAINED
    if coarse:
        size = finding.accounts.get(Account.FREE_HEAP)
    if size is None:
        said.append(f"nothing is said of {plant.account}")
    elif not plant.least - (_SLACK if not plant.account else 0) <= size <= plant.most:
        least, most = format_size(plant.least), format_size(plant.most)
        said.append(f"{format_size(size)} on {plant.account or 'all accounts'}, not {least} to {most}")
    answer = Answer.WRONG if said else Answer.COARSE if coarse else Answer.RIGHT
    return Check(plant=plant, answer=answer, finding=finding, size=size, said=tuple(said))


def parse_finding(text: str) -> Finding:
    """Return the finding that the process of a plant printed. Raises ValueError on anything else."""
    try:
        found = json.loads(text)
        return Finding(**{**found, "problems": tuple(found["problems"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"no finding in {text[:80]!r}") from error


def main(name: str) -> None:
    """Plant the pattern `name` here and print what the guard said."""
    (plant,) = (each for each in PLANTS if each.name == name)
    found = find(plant)
    fields = {key: getattr(found, key) for key in Finding.__slots__}
    sys.stdout.write(json.dumps(fields) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
