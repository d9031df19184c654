from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_rssguard.model import Account, Census, Heap, Kind, Piece, Pools
from pytest_rssguard.owners import UNKNOWN, owned
from pytest_rssguard.portrait import Portrait, lines, notes, to_json, with_private
from tests.builders import BASE, KIB, MIB, region, snapshot

LIBRARY = 0x7F00_0000_0000
THREAD = 0x7E00_0000_0000
MMAP = 0x7D00_0000_0000
STACK = 0x7FFF_0000_0000

MAIN = Heap(
    start=BASE, end=BASE + 4 * MIB, main=True, arena=1, live=MIB, live_blocks=9, pinned=2 * MIB, pinned_pages=700,
    trimmable=MIB, pins={32: 700}, cells="L256P512T256", pages_per_cell=1,
)  # fmt: skip
OTHER = Heap(start=THREAD, end=THREAD + MIB, main=False, arena=2, live=MIB - 4 * KIB, metadata=4 * KIB)
MAPPINGS = (
    region(BASE, 4 * MIB, path="[heap]"),
    region(MMAP, MIB),
    region(MMAP + MIB, 3 * MIB),
    region(MMAP + 16 * MIB, 2 * MIB),
    region(MMAP + 32 * MIB, 8 * MIB, rss=12 * KIB),
    region(THREAD, MIB),
    region(LIBRARY, MIB, path="/lib/libc.so.6", perms="r-xp"),
    region(LIBRARY + MIB, 64 * KIB, path="/lib/libc.so.6"),
    region(LIBRARY + MIB + 64 * KIB, 64 * KIB),
    region(LIBRARY + 2 * MIB, MIB, path="/dev/shm/x", perms="rw-s"),  # noqa: S108 - a name
    region(LIBRARY + 4 * MIB, MIB, path="/data", perms="r--p"),
    region(STACK, 16 * KIB, path="[stack]"),
    region(STACK + MIB, 4 * KIB, path="[vdso]", perms="r-xp"),
)
CENSUS = Census(
    heaps=(MAIN, OTHER),
    pools=Pools(resident=2 * MIB, live=MIB, live_blocks=5000, used=100, free=28, arenas=2),
    pieces=(
        Piece(kind=Kind.CHUNK, start=MMAP, end=MMAP + 2 * MIB, resident=2 * MIB),
        Piece(kind=Kind.ARENA, start=MMAP + 16 * MIB, end=MMAP + 18 * MIB, resident=2 * MIB),
    ),
    chunks=1,
    chunk_bytes=2 * MIB,
    chunk_resident=2 * MIB,
    bss=((LIBRARY + MIB + 64 * KIB, LIBRARY + MIB + 128 * KIB),),
)
SNAPSHOT = snapshot(*MAPPINGS, stack_pointers=(MMAP + 40 * MIB - 64, STACK + 100), threads=2)
PORTRAIT = Portrait(pid=7, name="x", snapshot=SNAPSHOT, census=CENSUS, ps_rss=SNAPSHOT.rss, seconds=0.1)


def test_every_mapping_has_one_owner_and_their_resident_bytes_sum_to_rss() -> None:
    entries = owned(SNAPSHOT, CENSUS)
    assert sum(entry.rss for entry in entries) == SNAPSHOT.rss
    assert [entry.rss for entry in entries] == sorted((entry.rss for entry in entries), reverse=True)
    assert {(entry.name, entry.owner): entry.rss for entry in entries} == {
        ("[heap]", "malloc, main heap"): 4 * MIB,
        (f"{MMAP:x}", "malloc, large blocks"): MIB,
        (f"{MMAP:x}", f"{UNKNOWN} 2.00 MiB, malloc, large blocks 1.00 MiB"): 3 * MIB,
        (f"{MMAP + 16 * MIB:x}", "pymalloc"): 2 * MIB,
        (f"{MMAP + 32 * MIB:x}", "stack of a thread"): 12 * KIB,
        ("thread arena 1", "malloc"): MIB,
        ("/lib/libc.so.6", "library or program"): MIB + 128 * KIB,
        ("/dev/shm/x", "shared memory"): MIB,  # noqa: S108 - a name
        ("/data", "mapped file"): MIB,
        ("[stack]", "stack of the main thread"): 16 * KIB,
        ("[vdso]", "the kernel"): 4 * KIB,
    }


def test_the_accounts_of_the_text_and_of_the_json_sum_to_rss() -> None:
    found = to_json(PORTRAIT)
    assert sum(size or 0 for size in found["accounts"].values()) == found["rss"] == SNAPSHOT.rss
    assert list(found["accounts"]) == [account.value for account in Account]
    assert found["divided"]
    assert found["trim"] == MIB
    assert [(each["arena"], each["live"]) for each in found["arenas"]] == [(0, MIB), (1, MIB - 4 * KIB)]
    assert found["pins"] == [{"blocks": 700, "chunk": 32, "meaning": "24 bytes or less"}]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_screen_keeps_to_its_columns(columns: int) -> None:
    shown = list(lines(PORTRAIT, columns=columns))
    assert all(len(line) <= max(78, min(columns - 2, 128)) for line in shown)
    assert any("one letter for" in line for line in shown) == (columns >= 66)
    assert "trim          malloc_trim(0) would give back 1.00 MiB" in shown
    assert "pinned by     700 live blocks of 24 bytes or less hold 2.00 MiB on 700 pages" in shown


def test_a_census_that_does_not_close_divides_nothing_and_says_what_to_do() -> None:
    torn = replace(PORTRAIT, census=Census(problems=("process 7 ran while it was read",)))
    assert next(notes(torn)) == "NOT DIVIDED: process 7 ran while it was read"
    assert any("--stop" in note for note in notes(torn))
    assert not any("--stop" in note for note in notes(replace(torn, stopped=True)))
    found = to_json(torn)
    assert not found["divided"]
    assert found["trim"] is None
    assert found["accounts"]["malloc_live"] is None
    assert sum(size or 0 for size in found["accounts"].values()) == SNAPSHOT.rss


def test_where_no_heap_is_known_held_is_an_upper_bound() -> None:
    shown = "\n".join(lines(replace(PORTRAIT, census=Census())))
    assert "at most: freed memory may be in mapped" in shown
    assert "no heap of glibc's malloc was found" in shown


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/usr/bin/python3.9", "Python 3.9 keeps"),
        ("/lib/libpython3.13t.so.1.0", "Python 3.13t keeps"),
        ("/bin/python3.12", None),
    ],
)
def test_a_python_whose_pools_are_not_known_is_named(path: str, said: str | None) -> None:
    known = replace(PORTRAIT, snapshot=snapshot(*MAPPINGS, region(LIBRARY + 8 * MIB, MIB, path=path)))
    told = [note for note in notes(known) if "keeps its small objects" in note]
    assert [note.partition(" its")[0] for note in told] == ([said] if said else [])


def test_what_others_took_of_the_heap_is_noted() -> None:
    parts = (replace(MAIN, end=BASE + MIB), replace(MAIN, start=BASE + MIB + 64 * KIB))
    noted = list(notes(replace(PORTRAIT, census=Census(heaps=parts))))
    assert noted == ["something other than malloc took 64.0 KiB of [heap] (sbrk): it is in unexplained"]


def test_a_quick_counter_that_is_off_is_noted() -> None:
    assert any("ps shows" in note for note in notes(replace(PORTRAIT, ps_rss=SNAPSHOT.rss - 2 * MIB)))


def test_libraries_with_allocators_of_their_own_are_named() -> None:
    assert "in mapped: libarrow (jemalloc), x" in "\n".join(notes(with_private(PORTRAIT, ("libarrow (jemalloc)", "x"))))


def test_stacks_that_are_guessed_are_noted() -> None:
    guessed = replace(PORTRAIT, snapshot=replace(SNAPSHOT, all_stacks_known=False))
    assert any("not every thread's stack pointer" in note for note in notes(guessed))


def test_arenas_beyond_the_fifth_share_a_line() -> None:
    many = tuple(replace(OTHER, start=THREAD + n * 64 * MIB, end=THREAD + n * 64 * MIB + MIB, arena=n + 2) for n in range(7))
    (line,) = (line for line in lines(replace(PORTRAIT, census=replace(CENSUS, heaps=(MAIN, *many)))) if "others" in line)
    assert line.startswith("3 others")


def test_without_large_blocks_or_pinned_pages_there_are_no_lines_for_them() -> None:
    plain = replace(CENSUS, heaps=(replace(MAIN, pinned=0), OTHER), chunks=0)
    shown = "\n".join(lines(replace(PORTRAIT, census=plain)))
    assert "malloc_trim(0) would give back" in shown
    assert "large blocks  " not in shown
    assert "pinned by" not in shown
