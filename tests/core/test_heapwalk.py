from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.errors import InconsistentMemoryError
from pytest_rssguard.heapwalk import pin_class, releasable, walk
from pytest_rssguard.model import Heap
from tests.builders import BASE, KEY, PAGE, FakeMemory, HeapBuilder, Use


def walked(heap: HeapBuilder, *, main: bool = True, top_releasable: bool = True, reach: int = 1 << 22) -> Heap:
    return walk(
        heap.memory(reach=reach),
        heap.first,
        heap.end,
        top=heap.top,
        key=heap.key,
        main=main,
        top_releasable=top_releasable,
        fast=heap.marks(),
    )


def small_sizes() -> st.SearchStrategy[int]:
    return st.integers(2, 80).map(lambda n: n * 16)


def sizes() -> st.SearchStrategy[int]:
    # lengths around whole pages are where malloc_trim decides
    near_pages = st.builds(lambda pages, off: pages * PAGE + off * 16, st.integers(1, 4), st.integers(-5, 5))
    return st.one_of(small_sizes(), small_sizes(), near_pages, st.integers(2, 1000).map(lambda n: n * 16))


@st.composite
def heaps(draw: st.DrawFn) -> HeapBuilder:
    heap = HeapBuilder(head=draw(st.sampled_from((0, 48, 2224))))
    for use, chunk, sparse in draw(st.lists(st.tuples(st.sampled_from(Use), sizes(), st.booleans()), min_size=1, max_size=24)):
        if use is Use.FAST:
            heap.add(use, min(chunk, 176))
        elif use is Use.TCACHE:
            heap.add(use, min(chunk, 1040))
        else:
            heap.add(use, chunk, sparse=sparse)
    beyond = draw(st.sampled_from((0, 0, 16, PAGE, 3 * PAGE)))
    if draw(st.booleans()):
        size: int | None = draw(st.one_of(st.none(), sizes()))
        return heap.ends_with_top(size, beyond=beyond, sparse=draw(st.booleans()))
    return heap.ends_left_behind(beyond)


@settings(deadline=None, max_examples=300)
@given(heap=heaps(), main=st.booleans(), releasable_top=st.booleans(), reach=st.sampled_from((PAGE, 3 * PAGE, 1 << 22)))
def test_a_walk_finds_exactly_what_the_builder_put_there(
    heap: HeapBuilder,
    main: bool,
    releasable_top: bool,
    reach: int,
) -> None:
    actual = walked(heap, main=main, top_releasable=releasable_top, reach=reach)
    assert actual == heap.expected(main=main, top_releasable=releasable_top)


@settings(deadline=None, max_examples=150)
@given(heap=heaps(), main=st.booleans())
def test_every_resident_byte_of_a_heap_is_on_one_account(heap: HeapBuilder, main: bool) -> None:
    found = walked(heap, main=main)
    total = found.live + found.tcache + found.pinned + found.trimmable + found.arena_top + found.metadata
    assert total == heap.memory().resident(heap.first, heap.end)


def test_blocks_that_lie_apart_on_one_page_pin_it_once() -> None:
    heap = HeapBuilder().live(32).free(64).live(48).free(64).live(32).ends_with_top()
    found = walked(heap)
    assert (found.live_blocks, found.pins) == (3, {32: 2, 48: 1})
    assert (found.pinned, found.pinned_pages) == (64 + 64 + PAGE - 240, 1)


def test_free_pages_between_two_live_blocks_are_trimmable_but_for_the_pages_at_both_ends() -> None:
    heap = HeapBuilder().live(2048).free(10 * PAGE).live(2048).ends_with_top()
    found = walked(heap)
    assert found.trimmable == 9 * PAGE
    assert found.pinned == PAGE + PAGE  # both ends of the range, and the top's own page
    assert found.pins == {2048: 2}


def test_a_free_chunk_that_was_trimmed_is_not_resident_and_counts_only_for_the_closing_check() -> None:
    heap = HeapBuilder().live(2048).free(10 * PAGE, sparse=True).live(2048).ends_with_top()
    found = walked(heap)
    assert (found.trimmable, found.free) == (0, 10 * PAGE + PAGE)


def test_live_memory_that_nobody_touched_is_not_resident() -> None:
    found = walked(HeapBuilder().live(32).live(20 * PAGE, sparse=True).ends_with_top())
    assert (found.live, found.untouched) == (32 + PAGE, 19 * PAGE)


def test_a_tcache_chunk_is_known_by_its_key_and_is_not_live() -> None:
    found = walked(HeapBuilder().live(64).tcache(64).tcache(1040).ends_with_top())
    assert (found.live, found.live_blocks, found.tcache) == (64, 1, 1104)


def test_without_a_key_cached_chunks_read_as_live() -> None:
    heap = HeapBuilder().live(64).tcache(64).ends_with_top()
    found = walk(heap.memory(), heap.first, heap.end, top=heap.top, key=None, main=True)
    assert (found.live, found.tcache) == (128, 0)


def test_a_chunk_over_the_largest_cached_size_is_live_even_if_it_carries_the_key() -> None:
    heap = HeapBuilder().live(2048).ends_with_top()
    data = bytearray(heap.data())
    struct.pack_into("=Q", data, 24, KEY)
    found = walk(FakeMemory(bytes(data)), heap.first, heap.end, top=heap.top, key=KEY, main=True)
    assert (found.live, found.tcache) == (2048, 0)
    found = walk(FakeMemory(bytes(data)), heap.first, heap.end, top=heap.top, key=KEY, main=True, cached_up_to=1 << 20)
    assert (found.live, found.tcache) == (0, 2048)


def test_chunks_of_a_fastbin_merge_with_free_neighbours_as_malloc_trim_merges_them() -> None:
    heap = HeapBuilder().live(4048).fast(48).free(PAGE).fast(32).live(32).ends_with_top()
    found = walked(heap)
    assert (found.fast, found.trimmable, found.live_blocks) == (80, PAGE, 2)
    unmarked = walk(heap.memory(), heap.first, heap.end, top=heap.top, key=heap.key, main=True)
    assert (unmarked.fast, unmarked.trimmable, unmarked.live_blocks) == (0, 0, 4)


def test_a_chunk_too_large_for_a_fastbin_is_live_whatever_the_marks_say() -> None:
    heap = HeapBuilder().fast(192).ends_with_top()
    assert walked(heap).live == 192


def test_the_top_of_the_main_heap_is_trimmable_but_for_its_first_bytes() -> None:
    found = walked(HeapBuilder().live(1024).ends_with_top(PAGE * 9 - 1024))
    assert (found.top_trimmable, found.trimmable, found.pinned) == (8 * PAGE, 8 * PAGE, PAGE - 1024)


@pytest.mark.parametrize(("main", "top_releasable"), [(False, True), (False, False), (True, False)])
def test_a_top_that_malloc_trim_skips_is_arena_top(main: bool, top_releasable: bool) -> None:
    found = walked(HeapBuilder().live(1024).ends_with_top(PAGE * 9 - 1024), main=main, top_releasable=top_releasable)
    assert (found.arena_top, found.trimmable, found.pinned) == (PAGE * 9 - 1024, 0, 0)


def test_memory_behind_the_top_or_the_fencepost_is_metadata() -> None:
    assert walked(HeapBuilder().live(4000).ends_with_top(96, beyond=3 * PAGE)).metadata == 3 * PAGE
    assert walked(HeapBuilder().live(4032).ends_left_behind(beyond=32)).metadata == 64


@pytest.mark.parametrize(
    ("size", "expected"),
    [(32, 32), (1040, 1040), (1041, 2048), (1056, 2048), (2048, 2048), (2064, 4096), (65536, 65536)],
)
def test_small_blocks_are_counted_by_size_and_large_ones_by_power_of_two(size: int, expected: int) -> None:
    assert pin_class(size) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, PAGE, (PAGE, PAGE)),
        (0, PAGE + 47, (PAGE + 47, PAGE + 47)),
        (0, 2 * PAGE, (PAGE, 2 * PAGE)),
        (PAGE - 48, 2 * PAGE, (PAGE, 2 * PAGE)),
        (PAGE - 32, 3 * PAGE, (2 * PAGE, 3 * PAGE)),
        (100 * 16, 5 * PAGE + 16, (PAGE, 5 * PAGE)),
    ],
)
def test_malloc_trim_releases_whole_pages_behind_the_header(start: int, end: int, expected: tuple[int, int]) -> None:
    assert releasable(start, end) == expected


def test_a_heap_whose_first_header_is_not_resident_is_refused() -> None:
    memory = FakeMemory(bytes(PAGE), absent=[0])
    with pytest.raises(InconsistentMemoryError, match="first chunk header not resident at 0x555555550000"):
        walk(memory, BASE, BASE + PAGE, top=None, key=None, main=True)


@pytest.mark.parametrize("size", [0, 24, 40, 1 << 40])
def test_a_chunk_of_impossible_size_is_refused_with_its_address(size: int) -> None:
    memory = FakeMemory(struct.pack("=4Q", 0, size, 0, 0))
    with pytest.raises(InconsistentMemoryError, match=f"impossible chunk size {size & -8} at {BASE:#x}"):
        walk(memory, BASE, BASE + PAGE, top=None, key=None, main=True)


@pytest.mark.parametrize("size", [0, 8, 2 * PAGE])
def test_a_top_of_impossible_size_is_refused(size: int) -> None:
    memory = FakeMemory(struct.pack("=6Q", 0, 33, 0, 0, 0, size | 1))
    with pytest.raises(InconsistentMemoryError, match=f"impossible top size {size}"):
        walk(memory, BASE, BASE + PAGE, top=BASE + 32, key=None, main=True)


def test_a_chunk_header_on_an_absent_page_is_refused() -> None:
    heap = HeapBuilder().live(PAGE).live(PAGE).live(32).ends_with_top()
    memory = FakeMemory(heap.data(), absent=[1])
    with pytest.raises(InconsistentMemoryError, match="chunk header not resident"):
        walk(memory, heap.first, heap.end, top=heap.top, key=None, main=True)


def test_a_header_that_disappears_between_two_looks_is_refused() -> None:
    class Fading(FakeMemory):
        def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
            return super().window(address, end) if address == BASE else None

    heap = HeapBuilder().live(PAGE).live(64).ends_with_top()
    with pytest.raises(InconsistentMemoryError, match="chunk header not resident"):
        walk(Fading(heap.data(), reach=PAGE), heap.first, heap.end, top=heap.top, key=None, main=True)


def test_a_window_too_short_for_a_header_is_refused() -> None:
    class Short(FakeMemory):
        def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
            found = super().window(address, end)
            return found if found is None or address == BASE else (found[0], found[1], address)

    heap = HeapBuilder().live(PAGE).live(64).ends_with_top()
    with pytest.raises(InconsistentMemoryError, match="chunk header not resident"):
        walk(Short(heap.data(), reach=PAGE), heap.first, heap.end, top=heap.top, key=None, main=True)


@settings(deadline=None, max_examples=200)
@given(
    heap=heaps(),
    damage=st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), max_size=6),
    absent=st.sets(st.integers(0, 30), max_size=4),
    reach=st.sampled_from((PAGE, 1 << 22)),
    top=st.one_of(st.none(), st.integers(-64, 1 << 12).map(lambda n: BASE + n * 16)),
)
def test_a_damaged_heap_is_walked_or_refused(
    heap: HeapBuilder,
    damage: list[tuple[int, bytes]],
    absent: set[int],
    reach: int,
    top: int | None,
) -> None:
    data = bytearray(heap.data())
    for at, noise in damage:
        start = at % len(data)
        data[start : start + len(noise)] = noise[: len(data) - start]
    memory = FakeMemory(bytes(data), absent=absent, reach=reach)
    try:
        found = walk(memory, heap.first, heap.end, top=top or heap.top, key=KEY, main=True, fast=heap.marks())
    except InconsistentMemoryError:
        return
    assert found.end == heap.end


@settings(deadline=None, max_examples=100)
@given(
    data=st.lists(
        st.one_of(st.sampled_from((0, 1, 33, 32, 48, 65, PAGE, PAGE | 1)), st.integers(0, (1 << 64) - 1)),
        max_size=2048,
    ),
    length=st.integers(1, 4 * PAGE),
)
def test_random_words_are_walked_or_refused(data: list[int], length: int) -> None:
    memory = FakeMemory(struct.pack(f"={len(data)}Q", *data))
    try:
        walk(memory, BASE, BASE + length, top=None, key=0, main=False)
    except InconsistentMemoryError:
        return


@pytest.mark.parametrize("old", [0, 1, 2, 3])
def test_live_memory_behind_where_the_heap_ended_is_new(old: int) -> None:
    heap = HeapBuilder().live(64).live(PAGE).live(4 * PAGE, sparse=True).ends_with_top()
    boundary = heap.chunks[old].start if old < 3 else heap.end
    found = walk(heap.memory(), heap.first, heap.end, top=heap.top, key=None, main=True, new_from=boundary)
    assert found.new_live == sum(chunk.size for chunk in heap.chunks[old:])
    assert found.new_untouched == (found.untouched if old < 3 else 0)
    assert found.untouched > 0
