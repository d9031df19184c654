"""Memory that lies: the census of a damaged or malicious process ends, quickly and in bounded memory, and its books close."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace
from random import Random
from typing import Final, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard import census, ledger
from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.heapmap import decode
from pytest_rssguard.image import Image
from pytest_rssguard.model import Census, Region
from pytest_rssguard.portrait import Portrait, lines, to_json
from pytest_rssguard.smaps import parse_smaps
from tests.builders import BASE, KIB, MIB, PAGE, HeapBuilder, PoolBuilder, region, snapshot
from tests.core.test_arenas import state_words

LIBC: Final = 0x7F00_0000_0000
POOLS: Final = 0x7E00_0000_0000
LARGE: Final = 0x7D00_0000_0000
THREAD: Final = 0x7C00_0000_0000


class FakeImage:
    """What census.take needs of an Image, over made-up ranges; it counts the looks it grants and refuses at `most`."""

    def __init__(self, ranges: dict[int, bytearray], *, most: int) -> None:
        self.ranges = {base: memoryview(data).cast("Q") for base, data in ranges.items()}
        self.most = most
        self.covered_to = 0

    def _look(self) -> None:
        self.most -= 1
        assert self.most > 0, "it does not end"

    def _find(self, address: int) -> tuple[int, memoryview] | None:
        return next(((base, words) for base, words in self.ranges.items() if base <= address < base + 8 * len(words)), None)

    def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
        self._look()
        found = self._find(address)
        if found is None:
            return None
        base, words = found
        start = address & -PAGE
        stop = min(base + 8 * len(words), (end + PAGE - 1) & -PAGE, start + 16 * PAGE)
        return (words[(start - base) >> 3 : (stop - base) >> 3], start, stop) if stop > start else None

    stretch = window

    def word(self, address: int) -> int | None:
        self._look()
        found = self._find(address)
        return int(found[1][(address - found[0]) >> 3]) if found and not address & 7 else None

    def resident(self, start: int, end: int) -> int:
        self._look()
        ends = ((base, base + 8 * len(words)) for base, words in self.ranges.items())
        return sum(max(0, min(end, stop) - max(start, base)) for base, stop in ends)

    def runs(self, start: int, end: int) -> list[tuple[int, int]]:
        self._look()
        self.covered_to = end
        found = ((max(start, base), min(end, base + 8 * len(words))) for base, words in self.ranges.items())
        return sorted((first, last) for first, last in found if first < last)

    def read(self, _address: int, _size: int, *, path: str = "") -> bytes:
        return path.encode()


def process() -> tuple[dict[int, bytearray], list[Region]]:
    """Return the memory and the mappings of a small process: a main heap, a thread's heap, pools, a large block."""
    heap = HeapBuilder()
    for size in (656, 48, 1008, 5008, 32, 9008):
        heap.live(size).free(size).live(32).tcache(64).live(size)
    heap.ends_with_top()
    heap.ends_with_top(PAGE - heap.at % PAGE + 8 * PAGE)
    main = bytearray(heap.data())

    thread = HeapBuilder(base=THREAD, head=0x8D0)
    for size in (656, 112, 3008):
        thread.live(size).free(size).live(48)
    thread.ends_with_top(PAGE - thread.at % PAGE + 4 * PAGE)
    arena = bytearray(thread.data())
    state = THREAD + 0x30
    words = state_words(
        base=state, top=thread.top or 0, following=LIBC + 64, system_mem=len(arena), max_system_mem=MIB, behind=0
    )
    struct.pack_into(f"={len(words)}Q", arena, 0x30, *words)
    struct.pack_into("=6Q", arena, 0, state, 0, len(arena), len(arena), PAGE, 0)

    libc = bytearray(4 * PAGE)
    words = state_words(base=LIBC + 64, top=heap.top or 0, following=state, system_mem=len(main), max_system_mem=MIB, before=2)
    struct.pack_into(f"={len(words)}Q", libc, 64, *words)

    pools = PoolBuilder(base=POOLS)
    for blocks in (3, 0, 200, 31):
        pools.pool(blocks=blocks, size=64)
    python = bytearray(b"".join(pools.slots))

    large = bytearray(64 * KIB)
    struct.pack_into("=2Q", large, 0, 0, len(large) | 2)

    memory = {LIBC: libc, BASE: main, POOLS: python, LARGE: large, THREAD: arena}
    regions = [
        region(BASE, len(main), path="[heap]"),
        region(THREAD, len(arena)),
        region(LARGE, len(large)),
        region(POOLS, len(python)),
        region(LIBC, len(libc), path="/lib/libc.so.6"),
    ]
    return memory, regions


def taken(memory: dict[int, bytearray], regions: list[Region]) -> Census:
    pages = sum(len(data) for data in memory.values()) // PAGE
    image = cast("Image", FakeImage(memory, most=20_000 + 4_000 * pages))
    return census.take(image, regions, key=None, learn_key=True, draw=True)


def books_close(found: Census, regions: list[Region]) -> None:
    for each in (found, Census(bss=found.bss, problems=found.problems)):
        accounts = ledger.totals(snapshot(*regions), each)
        assert sum(size or 0 for size in accounts.values()) == sum(region_.rss for region_ in regions)


def test_the_process_that_is_damaged_below_is_sound() -> None:
    memory, regions = process()
    found = taken(memory, regions)
    assert found.problems == ()
    assert [heap.main for heap in found.heaps] == [True, False]
    assert found.pools is not None
    assert (found.pools.used, found.pools.free, found.chunks) == (3, 1, 1)
    books_close(found, regions)


DAMAGE = st.lists(
    st.tuples(
        st.sampled_from((LIBC, BASE, POOLS, LARGE, THREAD)),
        st.integers(0, 600),
        st.one_of(
            st.integers(0, (1 << 64) - 1),
            st.integers(0, 1 << 20),
            st.sampled_from((LIBC + 64, THREAD, THREAD + 0x30, BASE, POOLS, LARGE, (1 << 64) - 8, 17, 1)),
        ),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=400)
@given(damage=DAMAGE)
def test_the_census_of_a_damaged_process_ends_and_its_books_close(damage: list[tuple[int, int, int]]) -> None:
    memory, regions = process()
    for base, at, value in damage:
        data = memory[base]
        struct.pack_into("=Q", data, 8 * at % len(data), value)
    found = taken(memory, regions)
    books_close(found, regions)
    portrait = Portrait(pid=1, name="x", snapshot=snapshot(*regions), census=found)
    assert list(lines(portrait))
    assert to_json(portrait)
    for heap in found.heaps:
        assert sum(count for _, count in decode(heap.cells)) <= 4096


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 1 << 32), base=st.sampled_from((LIBC, BASE, POOLS, LARGE, THREAD)))
def test_noise_in_place_of_any_part_is_survived(seed: int, base: int) -> None:
    data = Random(seed).randbytes(4 * PAGE)  # noqa: S311 - noise
    memory, regions = process()
    memory[base][: len(data)] = data[: len(memory[base])]
    books_close(taken(memory, regions), regions)


def test_an_arena_that_claims_all_memory_costs_none() -> None:
    memory, regions = process()
    words = state_words(
        base=LIBC + 64, top=BASE, following=LIBC + 64, system_mem=1 << 62, max_system_mem=1 << 62, before=2,
        fast=(BASE + 0x10,) * 10,
    )  # fmt: skip
    struct.pack_into(f"={len(words)}Q", memory[LIBC], 64, *words)
    tracemalloc.start()
    try:
        found = taken(memory, regions)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.problems
    assert peak < 4 * MIB


def test_a_fastbin_that_runs_in_a_circle_is_left() -> None:
    memory, regions = process()
    chunk = BASE + 656  # make two chunks of 48 bytes point at each other
    struct.pack_into("=3Q", memory[BASE], 656, 0, 48 | 1, (chunk + 16 >> 12) ^ chunk)
    words = state_words(
        base=LIBC + 64, top=BASE, following=LIBC + 64, system_mem=len(memory[BASE]), max_system_mem=MIB, before=2,
        fast=(0, chunk, *[0] * 8),
    )  # fmt: skip
    struct.pack_into(f"={len(words)}Q", memory[LIBC], 64, *words)
    books_close(taken(memory, regions), regions)


def test_a_page_that_is_all_large_blocks_is_bounded() -> None:
    data = bytearray(MIB)
    for at in range(0, MIB, PAGE):
        struct.pack_into("=2Q", data, at, 0, PAGE | 2)
    memory, regions = process()
    memory[LARGE] = data
    regions[2] = region(LARGE, MIB)
    found = taken(memory, regions)
    assert found.chunks == MIB // PAGE
    books_close(found, regions)


@pytest.mark.parametrize("text", [b"a" * MIB, b"7f00-7f01 rw-p 0 0:0 0 " + b"/x" * MIB])
def test_a_line_without_end_is_refused(text: bytes) -> None:
    with pytest.raises(UnreadableError, match="a mapping of more than"):
        list(parse_smaps(memoryview(text)))


@settings(deadline=None, max_examples=100)
@given(sizes=st.lists(st.integers(0, 1 << 63), min_size=5, max_size=5))
def test_resident_sizes_that_lie_still_sum_up(sizes: list[int]) -> None:
    memory, regions = process()
    lying = [replace(each, rss=size, lazy_free=size // 3) for each, size in zip(regions, sizes, strict=True)]
    books_close(taken(memory, lying), lying)
