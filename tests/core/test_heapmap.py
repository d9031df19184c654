from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard import heapmap
from pytest_rssguard.heapwalk import walk
from pytest_rssguard.model import Census, Heap, Memory
from pytest_rssguard.record import HeapMap, from_json
from tests.builders import BASE, PAGE, FakeMemory, HeapBuilder, record
from tests.core.test_heapwalk import heaps


class Everything:
    """Memory (model.Memory) without words, in which `absent` pages are not resident."""

    def __init__(self, absent: Iterable[int] = ()) -> None:
        self.absent = frozenset(absent)

    def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
        raise NotImplementedError

    def word(self, address: int) -> int | None:
        raise NotImplementedError

    def resident(self, start: int, end: int) -> int:
        return sum(PAGE for at in range(start, end, PAGE) if at // PAGE not in self.absent)


def drawn(heap: HeapBuilder, *, main: bool, top_releasable: bool) -> str:
    memory = heap.memory()
    canvas = heapmap.canvas(heap.first, heap.end)
    assert canvas is not None
    walk(
        memory, heap.first, heap.end, top=heap.top, key=heap.key, main=main, top_releasable=top_releasable,
        fast=heap.marks(), drawn=canvas,
    )  # fmt: skip
    cells, scale = heapmap.fold(memory, canvas, heap.first, heap.end)
    assert scale == 1
    return "".join(letter * count for letter, count in heapmap.decode(cells))


@settings(deadline=None, max_examples=300)
@given(heap=heaps(), main=st.booleans(), releasable_top=st.booleans())
def test_a_page_is_drawn_as_the_builder_filled_it(heap: HeapBuilder, main: bool, releasable_top: bool) -> None:
    assert drawn(heap, main=main, top_releasable=releasable_top) == heap.pages(main=main, top_releasable=releasable_top)


@settings(deadline=None, max_examples=100)
@given(heap=heaps(), main=st.booleans())
def test_drawing_changes_nothing_of_what_the_walk_finds(heap: HeapBuilder, main: bool) -> None:
    def walked(canvas: mmap.mmap | None) -> Heap:
        return walk(heap.memory(), heap.first, heap.end, top=heap.top, key=heap.key, main=main, fast=heap.marks(), drawn=canvas)

    assert walked(heapmap.canvas(heap.first, heap.end)) == walked(None)


def test_a_heap_of_many_pages_is_drawn_with_at_most_4096_cells() -> None:
    pages = 10_000
    canvas = bytearray(b"P" * 6000 + b"T" * 4000)
    cells, scale = heapmap.fold(Everything(), canvas, BASE, BASE + pages * PAGE)
    assert (cells, scale) == ("P2000T1334", 3)


def test_a_cell_shows_what_most_of_its_pages_are() -> None:
    canvas = bytearray(b"PPT" + b"\0\0P" + b"TTT" + b"A\0\0")
    memory = Everything(BASE // PAGE + page for page in (6, 7))
    assert heapmap.fold(memory, canvas * 1024, BASE, BASE + 12 * 1024 * PAGE)[1] == 3
    assert heapmap.fold(memory, bytearray(b"PPT\0\0PTT"), BASE, BASE + 8 * PAGE) == ("P2T1L2P1.2", 1)


@pytest.mark.parametrize("pages", [0, (1 << 24) + 1])
def test_what_is_empty_or_larger_than_64_gib_is_not_drawn(pages: int) -> None:
    assert heapmap.canvas(BASE, BASE + pages * PAGE) is None


@given(letters=st.text(alphabet="LPTA.", max_size=60))
def test_run_lengths_say_what_they_were_made_from(letters: str) -> None:
    assert "".join(letter * count for letter, count in heapmap.decode(heapmap.encode(letters))) == letters


@settings(deadline=None)
@given(letters=st.text(alphabet="LPTA.", min_size=1, max_size=400), width=st.integers(1, 70), rows=st.integers(1, 6))
def test_a_drawing_fits_its_room_and_shows_what_most_cells_are(letters: str, width: int, rows: int) -> None:
    map_ = HeapMap(name="main heap", start=BASE, page_size=PAGE, pages_per_cell=2, cells=heapmap.encode(letters))
    head, *drawing = heapmap.lines(map_, width=width, rows=rows)
    size = -(-len(letters) // (width * rows))
    parts = [letters[at : at + size] for at in range(0, len(letters), size)]
    shown = "".join(drawing)
    assert head.startswith(f"main heap at {BASE:#x}, one letter for ")
    assert len(drawing) <= rows
    assert all(len(line) <= width for line in drawing)
    assert len(shown) == len(parts)
    for letter, part in zip(shown, parts, strict=True):
        counts = Counter(part)
        assert counts[letter] == max(counts.values())


def test_a_count_from_a_file_cannot_make_a_drawing_large() -> None:
    map_ = HeapMap(name="main heap", start=BASE, page_size=PAGE, pages_per_cell=1, cells="L999999999P1" * 1000)
    assert [len(line) for line in heapmap.lines(map_, width=60, rows=2)][1:] == [60, 60]


def test_heaps_are_named_by_their_arena() -> None:
    main = Heap(start=BASE, end=BASE + PAGE, main=True, arena=1, cells="L1", pages_per_cell=1)
    thread = replace(main, main=False, arena=2, start=BASE + (64 << 20))
    census = Census(heaps=(main, thread, replace(thread, start=BASE + (128 << 20)), replace(thread, arena=3)))
    assert [each.name for each in heapmap.draw(census)] == ["main heap", "thread arena 1", "thread arena 1", "thread arena 2"]


def test_a_census_that_was_not_asked_to_draw_draws_nothing() -> None:
    assert heapmap.draw(Census(heaps=(Heap(start=BASE, end=BASE + PAGE, main=True),))) == ()


def test_a_drawing_comes_back_from_a_record() -> None:
    heap = HeapBuilder().live(3 * PAGE).free(5 * PAGE).live(64).ends_with_top()
    canvas = heapmap.canvas(heap.first, heap.end)
    assert canvas is not None
    memory: Memory = FakeMemory(heap.data(), base=heap.base)
    walk(memory, heap.first, heap.end, top=heap.top, key=heap.key, main=True, drawn=canvas)
    cells, size = heapmap.fold(memory, canvas, heap.first, heap.end)
    found = Census(heaps=(Heap(start=heap.first, end=heap.end, main=True, cells=cells, pages_per_cell=size),))
    kept = record(heap_map=heapmap.draw(found))
    assert from_json(kept.to_json()) == kept
    assert kept.heap_map[0].cells == "L3P1T4P1"
