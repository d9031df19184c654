"""The census of a C program from outside, against what the program says of itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rssguard import ledger
from pytest_rssguard.external import read_process
from pytest_rssguard.model import Account, Census, Snapshot
from tests.external.conftest import Program

PAGE = 4096
KIB = 1 << 10
MIB = 1 << 20

Start = Callable[[], Program]
COUNTERS = ("arena", "hblks", "hblkhd", "fsmblks", "uordblks", "fordblks")
#: Bytes of chunks that each of the 4,000 blocks takes in the eight threads together.
THREADS = sum(range(720, 848, 16))

#: What each pattern must show: account, at least, at most (bytes). Both bounds follow from the counts in patterns.c.
PATTERNS: dict[str, dict[Account, tuple[int, int]]] = {
    "plain": {
        Account.MALLOC_LIVE: (20_000 * 1008, 20_000 * 1008 + 4 * KIB),
        Account.PINNED: (0, 8 * KIB),
        Account.TRIMMABLE: (0, 132 * KIB),
    },
    "every_other": {
        Account.MALLOC_LIVE: (10_000 * 1008, 10_000 * 1008 + 4 * KIB),
        Account.PINNED: (9_950 * 1008, 10_000 * 1008),
    },
    "all_but_last": {
        Account.MALLOC_LIVE: (1008, 4 * KIB),
        Account.TRIMMABLE: (19_950 * 1008, 20_000 * 1008),
        Account.PINNED: (0, 12 * KIB),
    },
    "question": {
        Account.MALLOC_LIVE: (16_000 * 32, 16_000 * 32 + 4 * KIB),
        Account.PINNED: (15_000 * 4192, 16_000 * 4192),
        Account.TRIMMABLE: (0, 2 * MIB),
    },
    "mmapped": {Account.MALLOC_LIVE: (20 * 551 * KIB + MIB, 20 * 560 * KIB + MIB + 64 * KIB), Account.MAPPED: (0, 64 * KIB)},
    "untouched": {Account.MALLOC_LIVE: (300 * 48, 300 * 2 * PAGE)},
    "tcache_full": {Account.TCACHE: (7 * sum(range(32, 1041, 16)), 16 * sum(range(32, 1041, 16)))},
    "fastbins": {Account.MALLOC_LIVE: (1_500 * 128, 1_500 * 128 + 4 * KIB)},
    "trimmed": {Account.MALLOC_LIVE: (51 * 3008 - 2000, 51 * 3008 + 4 * KIB), Account.TRIMMABLE: (0, 256 * KIB)},
    "foreign_sbrk": {
        Account.MALLOC_LIVE: (4_000 * 1008 + 2_000 * 1520, 4_000 * 1008 + 2_000 * 1520 + 4 * KIB),
        Account.UNEXPLAINED: (76 * KIB, 80 * KIB),
    },
    "foreign_top": {Account.MALLOC_LIVE: (1_500 * 1008, 1_500 * 1008 + 4 * KIB), Account.UNEXPLAINED: (64 * KIB, 68 * KIB)},
    "blocked": {
        Account.MALLOC_LIVE: (10_500 * 1008, 10_500 * 1008 + 4 * KIB),
        Account.PINNED: (10_300 * 1008, 10_500 * 1008 + 21 * 1008),  # and what is left at the end of each MiB
        Account.MAPPED: (0, 64 * KIB),
    },
    "threads": {Account.MALLOC_LIVE: (4_000 * THREADS, 4_000 * THREADS + 32 * KIB)},
    "threads_every_other": {
        Account.MALLOC_LIVE: (2_000 * THREADS, 2_000 * THREADS + 32 * KIB),
        Account.PINNED: (1_900 * THREADS, 2_000 * THREADS),
    },
    "arena_tops": {Account.ARENA_TOP: (3_900 * THREADS, 4_000 * THREADS + 8 * 132 * KIB), Account.MALLOC_LIVE: (0, 16 * KIB)},
}


def closing(found: tuple[Snapshot, Census]) -> dict[Account, int]:
    snapshot, census = found
    accounts = ledger.totals(snapshot, census)
    assert sum(size or 0 for size in accounts.values()) == snapshot.rss
    return {account: size or 0 for account, size in accounts.items()}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_census_of_a_c_program_agrees_with_what_it_says_of_itself(start: Start, pattern: str) -> None:
    program = start()
    said = program.ask(pattern)
    said = program.ask("tell")
    snapshot, census = read_process(program.pid)
    assert census.problems == ()
    accounts = closing((snapshot, census))

    assert snapshot.malloc is not None
    assert {name: getattr(snapshot.malloc, name) for name in COUNTERS} == {name: said[name] for name in COUNTERS}
    assert snapshot.rss == said["rss"]
    assert program.ask("tell") == said, "reading it changed the program"

    for account, (least, most) in PATTERNS[pattern].items():
        assert least <= accounts[account] <= most, account

    trimmed = program.ask("trim")
    assert trimmed["before"] == snapshot.rss
    arenas = len({heap.arena for heap in census.heaps})
    assert abs(accounts[Account.TRIMMABLE] - (trimmed["before"] - trimmed["after"])) <= arenas * PAGE


def test_the_blocks_that_pin_are_counted_by_size(start: Start) -> None:
    program = start()
    program.ask("question")
    _, census = read_process(program.pid)
    assert 15_990 <= census.pins[32] <= 16_000


def test_eight_threads_have_an_arena_each(start: Start) -> None:
    program = start()
    program.ask("threads_every_other")
    snapshot, census = read_process(program.pid)
    assert snapshot.threads == 9
    assert snapshot.all_stacks_known
    assert len({heap.arena for heap in census.heaps}) == 9
    stack = closing((snapshot, census))[Account.STACK]
    assert 9 * 4 * KIB <= stack <= 9 * 64 * KIB


def test_a_hammered_heap_is_read_whole_or_said_to_be_inconsistent(start: Start) -> None:
    program = start()
    program.ask("hammer")
    for _ in range(5):
        snapshot, census = read_process(program.pid)
        accounts = closing((snapshot, census))
        if census.problems:
            assert any(problem.startswith(f"process {program.pid} ran while it was read") for problem in census.problems)
            assert census.heaps == ()
            assert snapshot.malloc is None
            assert accounts[Account.MALLOC_LIVE] == 0
    assert program.ask("rest")["kept"] == 5000


def test_stopped_a_hammered_heap_is_read_whole_and_goes_on(start: Start) -> None:
    program = start()
    program.ask("hammer")
    for _ in range(5):
        snapshot, census = read_process(program.pid, stop=True)
        assert census.problems == ()
        live = closing((snapshot, census))[Account.MALLOC_LIVE]
        assert 2_500 * 1008 <= live <= 2_500 * 1008 + 4 * 256 * 3 * KIB + 64 * KIB
    assert program.ask("rest")["kept"] == 5000


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123 - /proc
        return file.read().rpartition(")")[2].split()[0]


def test_a_process_that_somebody_else_had_stopped_stays_stopped(start: Start) -> None:
    program = start()
    said = program.ask("plain")
    os.kill(program.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
    snapshot, census = read_process(program.pid, stop=True)
    assert census.problems == ()
    assert snapshot.malloc is not None
    assert snapshot.malloc.uordblks == said["uordblks"]
    assert state(program.pid) == "T"
    os.kill(program.pid, signal.SIGCONT)
    assert program.ask("tell")["kept"] == 20_000


def test_a_read_that_fails_lets_the_process_go_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    program = start()

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_rssguard.external.census.take", fail)
    with pytest.raises(KeyboardInterrupt):
        read_process(program.pid, stop=True)
    assert program.ask("tell")["kept"] == 0


@pytest.mark.parametrize("pattern", ["every_other", "all_but_last", "foreign_sbrk", "threads_every_other", "mmapped"])
def test_a_program_with_the_c_library_in_it_is_read_as_well(static_binary: Path, pattern: str) -> None:
    program = Program(static_binary)
    try:
        program.ask(pattern)
        program.ask("tell")
        said = program.ask("tell")
        snapshot, census = read_process(program.pid)
        assert census.problems == ()
        assert snapshot.malloc is not None
        assert {name: getattr(snapshot.malloc, name) for name in COUNTERS} == {name: said[name] for name in COUNTERS}
        assert snapshot.rss == said["rss"]
        assert program.ask("tell") == said
        accounts = closing((snapshot, census))
        trimmed = program.ask("trim")
        arenas = len({heap.arena for heap in census.heaps})
        assert abs(accounts[Account.TRIMMABLE] - (trimmed["before"] - trimmed["after"])) <= arenas * PAGE
    finally:
        program.close()


ALLOCATORS = ("libjemalloc.so.2", "libmimalloc.so.2", "libtcmalloc_minimal.so.4")


@pytest.mark.parametrize("name", ALLOCATORS)
def test_of_another_allocator_it_says_what_it_cannot_know(binary: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = next((path for folder in ("/usr/lib", "/lib") for path in Path(folder).glob(f"*/{name}")), None)
    if library is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("LD_PRELOAD", str(library))
    program = Program(binary)
    try:
        program.ask("every_other")
        snapshot, census = read_process(program.pid)
        accounts = ledger.totals(snapshot, census)
        assert census.heaps == ()
        assert snapshot.malloc is None
        assert accounts[Account.MALLOC_LIVE] is None
        assert accounts[Account.PINNED] is None
        assert sum(size or 0 for size in accounts.values()) == snapshot.rss
        # jemalloc and mimalloc map, tcmalloc moves the end of the heap
        unknown = (accounts[Account.MAPPED] or 0) + (accounts[Account.UNEXPLAINED] or 0)
        assert unknown >= 20_000 * 1000
    finally:
        program.close()
