"""Real memory in known patterns, and what a guard must say of each. Run as a script: one JSON line a case.

`prepare` makes what an earlier test left behind, unmeasured; `body` is measured at 4 MiB. The bounds are those of the
account that must carry the bytes: block sizes as glibc and pymalloc round them, and 2 % for what is neither.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import random
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_rssguard.api import process_guard
from pytest_rssguard.model import Account, Limit
from pytest_rssguard.span import Plan

MIB = 1 << 20
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.free.argtypes = [ctypes.c_void_p]
KEPT: list[Any] = []
STOP = threading.Event()


def nothing() -> None:
    """Do nothing."""


def blocks(size: int, count: int) -> list[int]:
    """Return `count` blocks of `size` bytes, every byte written."""
    found = [LIBC.malloc(size) for _ in range(count)]
    for block in found:
        ctypes.memset(block, 1, size)
    return found


def free(found: list[int]) -> None:
    for block in found:
        LIBC.free(block)


def exhaust_small_holes() -> None:
    """Use up what other cases left free in blocks of 24 bytes or less."""
    for _ in range(150_000):
        LIBC.malloc(8)


M_TRIM_THRESHOLD = -1


def raise_threshold() -> None:
    """Let glibc keep up to 62 MiB at the end of a heap, as it does after one block of 31 MiB was freed."""
    LIBC.mallopt(M_TRIM_THRESHOLD, 62 * MIB)


def lower_threshold() -> None:
    """Put the default back."""
    LIBC.mallopt(M_TRIM_THRESHOLD, 128 * 1024)


def under_live_block() -> None:
    found = blocks(2048, 20_000)
    LIBC.malloc(3000)
    free(found)


BIG = (ctypes.c_void_p * 10_000)()  # a list would grow, and its old memory would take the small blocks


def pairs() -> None:
    for index in range(len(BIG)):
        block = LIBC.malloc(4186)
        ctypes.memset(block, 1, 4186)
        BIG[index] = block
        LIBC.malloc(8)
    for block in BIG:
        LIBC.free(block)


def every_other() -> None:
    free(blocks(1000, 20_000)[::2])


def all_but_every_eighth() -> None:
    found = blocks(1000, 24_000)
    free([block for index, block in enumerate(found) if index % 8])


def in_threads() -> None:
    def work() -> None:
        free(blocks(1100, 15_000))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def pinned_arenas() -> None:
    found = [(index, index + 1) for index in range(600_000)]
    KEPT.append(found[::4000])


def held_arenas() -> None:
    KEPT.append([float(index) for index in range(900_000)][::4000])


def floats() -> None:
    KEPT.append([float(index) for index in range(500_000)])


def cycles() -> None:
    gc.disable()
    try:
        ring: list[Any] = [b"x" * (40 * MIB)]  # over 32 MiB: its own mapping, whatever the thresholds are
        ring.append(ring)
    finally:
        gc.enable()


def mapping(size: int, flags: int) -> mmap.mmap:
    found = mmap.mmap(-1, size, flags=flags | mmap.MAP_ANONYMOUS)
    for at in range(0, size, 4096):
        found[at] = 1
    return found


def raw_mapping() -> None:
    KEPT.append(mapping(30 * MIB, mmap.MAP_PRIVATE))


def shared_mapping() -> None:
    KEPT.append(mapping(30 * MIB, mmap.MAP_SHARED))


def lazily_freed() -> None:
    found = mapping(30 * MIB, mmap.MAP_PRIVATE)
    found.madvise(mmap.MADV_FREE)
    KEPT.append(found)


def file_made() -> None:
    path = Path(tempfile.mkdtemp()) / "data"
    path.write_bytes(bytes(1 * MIB) * 20)
    KEPT.append(path)


def file_read() -> None:
    with KEPT[-1].open("rb") as file:
        found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    KEPT.append((found, sum(found[at] for at in range(0, len(found), 4096))))


def stacks_touched() -> None:
    ready = threading.Semaphore(0)

    def work() -> None:
        attributes = ctypes.create_string_buffer(256)
        base, size = ctypes.c_void_p(), ctypes.c_size_t()
        LIBC.pthread_self.restype = ctypes.c_void_p
        LIBC.pthread_getattr_np(ctypes.c_void_p(LIBC.pthread_self()), attributes)
        LIBC.pthread_attr_getstack(attributes, ctypes.byref(base), ctypes.byref(size))
        ctypes.memset((base.value or 0) + 64 * 1024, 1, 4 * MIB)
        ready.release()
        STOP.wait()

    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    for _ in range(4):
        ready.acquire()


M_MMAP_THRESHOLD = -3


def pinned_and_untouched() -> None:
    """Leave 20 MB free but pinned, and 40 MB live that nobody has touched, all of it in the heap."""
    LIBC.mallopt(M_MMAP_THRESHOLD, 64 * MIB)
    free(blocks(1000, 40_000)[::2])
    KEPT.append([LIBC.malloc(MIB) for _ in range(40)])


def untouched() -> None:
    KEPT.append(LIBC.malloc(30 * MIB + 5000))


def first_written() -> None:
    ctypes.memset(KEPT[-1], 1, 30 * MIB)


def untouched_mapping() -> None:
    KEPT.append(mmap.mmap(-1, 30 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def mapping_written() -> None:
    for at in range(0, 30 * MIB, 4096):
        KEPT[-1][at] = 1


def old_and_live() -> None:
    KEPT.append([b"o" * (40 * MIB)])  # over 32 MiB: its own mapping, whatever the thresholds are


def old_for_new() -> None:
    old = KEPT[-1]
    KEPT.append([b"n" * (40 * MIB)])
    old.clear()


def failed_before() -> None:
    """Leave what a failed test leaves: an exception in sys.last_*, whose frames hold 40 MiB."""

    def fails() -> None:
        held = b"f" * (40 * MIB)
        raise ValueError(len(held))

    try:
        fails()
    except ValueError as error:
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
        sys.last_exc = error  # type: ignore[attr-defined]  # 3.12 on


def arenas_for_native() -> None:
    """Let go of the few objects that pin arenas, and leak as much native memory as goes back."""
    at = process_guard().probe.rss()
    KEPT.pop().clear()
    blocks(10_000, max(1, (at - process_guard().probe.rss()) // 10_016))


def lazy_for_native() -> None:
    """Unmap what was freed lazily, and leak as much native memory."""
    KEPT.pop().close()
    blocks(10_000, 3000)


def forty_left_free() -> None:
    found = blocks(2048, 20_000)
    LIBC.malloc(3000)
    free(found)


def twenty_and_back() -> None:
    free(blocks(2048, 10_000))


def twenty_at_the_end() -> None:
    """Leave 20 MiB free at the end of the heap, where free() keeps them once it has seen a large block."""
    raise_threshold()
    twenty_and_back()


def twenty_cut_off() -> None:
    """The same, and then a measurement of ours, whose trim cuts them off."""
    twenty_at_the_end()
    process_guard().end(process_guard().begin(Limit(tolerance=4 * MIB)))


def sixty_and_back() -> None:
    free(blocks(2048, 30_000))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pattern: what it is, what must be said of it."""

    body: Callable[[], object]
    outcome: str
    account: Account | None = None
    least: int = 0
    most: int = 0
    prepare: Callable[[], None] = nothing
    cleanup: Callable[[], object] = nothing
    trim: bool = False
    masked: bool = False
    collected: bool = False
    #: What RSS has grown by at least and at most since before our own trims, None where that is not what is tried.
    untrimmed: tuple[int, int] | None = None
    #: Needs a process without free pools of earlier cases: not run together with others.
    alone: bool = False


M, P = Account.MALLOC_LIVE, Account.PYTHON_LIVE
CASES = {
    "nothing": Case(body=nothing, outcome="returned"),
    "allocate and free": Case(body=lambda: free(blocks(2000, 10_000)), outcome="returned"),
    "free small blocks": Case(body=lambda: free(blocks(24, 20_000)), outcome="returned"),
    "leak small blocks": Case(
        body=lambda: blocks(1000, 30_000), outcome="leaked", account=M, least=30_200_000, most=30_900_000
    ),
    "leak large blocks": Case(
        body=lambda: blocks(300_000, 100), outcome="leaked", account=M, least=29_900_000, most=30_900_000
    ),
    "leak Python floats": Case(body=floats, outcome="leaked", account=P, least=12_000_000, most=16_400_000),
    "leak large bytes": Case(
        body=lambda: KEPT.append([bytes(5000) for _ in range(6000)]),
        outcome="leaked", account=M, least=30_200_000, most=31_000_000,
    ),
    "garbage in cycles": Case(body=cycles, outcome="returned", collected=True),
    "under a live block": Case(
        body=under_live_block, outcome="retained", account=Account.TRIMMABLE, least=36 * MIB, most=43 * MIB
    ),
    "under a live block, trimmed": Case(body=under_live_block, outcome="returned", trim=True),
    "pairs": Case(
        prepare=exhaust_small_holes, body=pairs, outcome="retained", account=Account.PINNED, least=36 * MIB, most=42 * MIB
    ),
    "pairs, trimmed": Case(
        prepare=exhaust_small_holes, body=pairs, outcome="retained", account=Account.PINNED, least=36 * MIB, most=42 * MIB,
        trim=True,
    ),
    "every other": Case(body=every_other, outcome="leaked", account=M, least=9_900_000, most=10_400_000),
    "keep every eighth": Case(
        body=all_but_every_eighth, outcome="retained", account=Account.PINNED, least=8 * MIB, most=15 * MIB
    ),
    "threads": Case(body=in_threads, outcome="returned"),
    "threads, raised threshold": Case(
        prepare=raise_threshold, body=in_threads, cleanup=lower_threshold,
        outcome="retained", account=Account.ARENA_TOP,
        least=8 * MIB, most=72 * MIB,
    ),
    "pinned arenas": Case(
        body=pinned_arenas, outcome="retained", account=Account.POOL_FREE, least=30 * MIB, most=80 * MIB
    ),
    "masked by arenas": Case(
        prepare=pinned_arenas, body=floats, outcome="leaked", account=P, least=12_000_000, most=16_400_000
    ),
    "masked by arenas that went back": Case(
        alone=True, prepare=held_arenas, body=arenas_for_native, outcome="leaked", account=M,
        least=10 * MIB, most=40 * MIB, masked=True
    ),
    "masked by what went back": Case(
        prepare=lazily_freed, body=lazy_for_native, outcome="leaked", account=M, least=29_900_000, most=30_900_000,
        masked=True,
    ),
    "old for new": Case(prepare=old_and_live, body=old_for_new, outcome="returned"),
    "leak after a failure": Case(
        prepare=failed_before, body=lambda: blocks(10_000, 3000), outcome="leaked", account=M,
        least=29_900_000, most=30_900_000,
    ),
    "never touched": Case(body=lambda: KEPT.append(LIBC.malloc(1 << 30)), outcome="returned"),
    "raw mapping": Case(
        body=raw_mapping, outcome="leaked", account=Account.MAPPED, least=30 * MIB - 65_536, most=30 * MIB + 262_144
    ),
    "shared memory": Case(
        body=shared_mapping, outcome="leaked", account=Account.SHMEM, least=30 * MIB, most=30 * MIB
    ),
    "lazily freed": Case(
        # the kernel marks pages in batches of up to 31 a CPU (mm/swap.c, lru_lazyfree): the last are still to come
        body=lazily_freed, outcome="retained", account=Account.LAZY_FREE, least=30 * MIB - 64 * 4096, most=30 * MIB
    ),
    "mapped file": Case(
        prepare=file_made, body=file_read, outcome="grew", account=Account.FILE, least=20 * MIB, most=21 * MIB
    ),
    "first written": Case(
        alone=True,  # among others malloc may take a hole for it, that an earlier trim had emptied
        prepare=untouched, body=first_written, outcome="grew", account=M, least=30 * MIB, most=30 * MIB + 65_536
    ),
    "leak beside untouched": Case(
        # what of the leak went to holes below cannot be told from memory that was untouched before: at most 10 % here
        alone=True, prepare=pinned_and_untouched, body=lambda: blocks(10_000, 1000), outcome="leaked", account=M,
        least=9_000_000, most=10_100_000,
    ),
    "first written mapping": Case(
        prepare=untouched_mapping, body=mapping_written, outcome="grew", account=Account.MAPPED,
        least=30 * MIB - 65_536, most=30 * MIB + 65_536,
    ),
    "leak a split chunk": Case(
        body=lambda: LIBC.madvise(blocks(40 * MIB, 1)[0] + 4080 & -4096, 8 * MIB, mmap.MADV_HUGEPAGE),
        outcome="leaked", account=M, least=40 * MIB, most=43 * MIB,
    ),
    "live stacks": Case(
        body=stacks_touched, outcome="leaked", account=Account.STACK, least=16 * MIB, most=17 * MIB
    ),
    "twenty after forty": Case(prepare=forty_left_free, body=twenty_and_back, outcome="returned"),
    "twenty alone": Case(body=twenty_and_back, outcome="returned"),
    "twenty at the end": Case(
        prepare=raise_threshold, body=twenty_and_back, cleanup=lower_threshold, alone=True,
        outcome="retained", account=Account.TRIMMABLE, least=19 * MIB, most=20 * MIB, untrimmed=(19 * MIB, 20 * MIB),
    ),
    "twenty at the end again": Case(
        prepare=twenty_at_the_end, body=twenty_and_back, cleanup=lower_threshold, alone=True,
        outcome="returned", account=Account.FREE_HEAP, least=19 * MIB, most=20 * MIB, untrimmed=(-MIB, MIB),
    ),
    "twenty at the end, cut off earlier": Case(
        prepare=twenty_cut_off, body=twenty_and_back, cleanup=lower_threshold, alone=True,
        outcome="returned", account=Account.FREE_HEAP, least=19 * MIB, most=20 * MIB, untrimmed=(-MIB, MIB),
    ),
    "sixty where twenty were cut off": Case(
        prepare=twenty_cut_off, body=sixty_and_back, cleanup=lower_threshold, alone=True,
        outcome="retained", account=Account.TRIMMABLE, least=58 * MIB, most=60 * MIB, untrimmed=(38 * MIB, 41 * MIB),
    ),
    "leak where twenty were cut off": Case(
        prepare=twenty_cut_off, body=lambda: blocks(2048, 8000), cleanup=lower_threshold, alone=True,
        outcome="leaked", account=M, least=16_384_000, most=16_900_000,
        untrimmed=(-17 * MIB // 4, -15 * MIB // 4),  # 20 MiB were there before our trim, 16 are now
    ),
}  # fmt: skip


def run(name: str) -> dict[str, Any]:
    """Return what the guard found for one case, and what it was."""
    case = CASES[name]
    guard = process_guard()
    guard.warm_up()  # what that frees must not be the holes that `prepare` uses up
    case.prepare()
    span = guard.begin(Limit(tolerance=4 * MIB), Plan(trim=case.trim))
    case.body()
    result = guard.end(span)
    case.cleanup()
    released = result.released
    return {
        "case": name,
        "outcome": result.verdict.outcome.value,
        "masked": result.verdict.masked,
        "why": result.verdict.why,
        "growth": result.growth,
        "growth_untrimmed": min(result.growth, result.rss_settled - result.rss_untrimmed),
        "collected": result.collected,
        "held": result.held,
        "retained": result.retained,
        "basis": result.basis.value,
        "accounts": {account.value: size for account, size in result.accounts.items()},
        "predicted": released and released.predicted,
        "observed": released and released.observed,
        "problems": list(result.census.problems) if result.census else [],
    }


def hammer(number: int) -> None:
    """Start so many threads that allocate, write and free for ever, each at most 1 MiB at a time, without the GIL."""

    def work(seed: int) -> None:
        choice = random.Random(seed)  # noqa: S311 - sizes, not secrets
        held = [LIBC.malloc(16) for _ in range(64)]
        while True:
            at = choice.randrange(len(held))
            LIBC.free(held[at])
            size = choice.choice((24, 200, 1000, 5000, 16_000))
            held[at] = LIBC.malloc(size)
            LIBC.memset(held[at], 1, size)

    LIBC.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    for seed in range(number):
        threading.Thread(target=work, args=(seed,), daemon=True).start()


def main(arguments: list[str]) -> None:
    """Run the cases named; or all of them in an order made from a seed, with `--shuffle SEED`; `--threads N` hammers."""
    lower_threshold()  # and so switch off its drift: one freed list of 5 MB would let later cases keep 10 MB
    if "--threads" in arguments:
        at = arguments.index("--threads")
        hammer(int(arguments[at + 1]))
        del arguments[at : at + 2]
    if arguments[:1] == ["--shuffle"]:
        names = [name for name, case in CASES.items() if not case.alone]
        random.Random(int(arguments[1])).shuffle(names)  # noqa: S311 - an order, not a secret
    else:
        names = arguments
    for name in names:
        sys.stdout.write(json.dumps(run(name)) + "\n")
        sys.stdout.flush()
    sys.stdout.flush()
    os._exit(0)  # threads of ours never end


if __name__ == "__main__":
    main(sys.argv[1:])
