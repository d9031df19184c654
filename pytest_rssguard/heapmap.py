"""Draw heaps: one letter for so many pages, saying what most of them are.

Pure. The walk (heapwalk) writes down what each page is while it goes; here that is put together with what is resident,
folded to few cells, and shown. The format is that of `record.HeapMap`.
"""

from __future__ import annotations

import mmap
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from pytest_rssguard.model import Census, Memory
from pytest_rssguard.record import HeapMap
from pytest_rssguard.units import format_size

PAGE: Final = 4096
#: The most cells that one heap is drawn with.
MOST_CELLS: Final = 4096
#: No heap larger than this is drawn: one byte a page is kept meanwhile (16 MiB for 64 GiB).
_MOST_PAGES: Final = 1 << 24
#: Heaps of more arenas than this are not drawn.
_MOST_HEAPS: Final = 64
#: Letters in the order in which they win where two have the same number of pages.
LETTERS: Final = "PTAL."
LEGEND: Final = "L live  P pinned  T trimmable  A arena top  . not resident"
_STEP: Final = 512
_RUN: Final = re.compile(r"([LPTA.])([0-9]+)")


def canvas(start: int, end: int) -> mmap.mmap | None:
    """Return zeroed bytes outside malloc, one for each page of [start, end), or None if that is too much to draw."""
    pages = (end + PAGE - 1) // PAGE - start // PAGE
    if not 0 < pages <= _MOST_PAGES:
        return None
    return mmap.mmap(-1, pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def fold(memory: Memory, drawn: mmap.mmap | bytearray, start: int, end: int) -> tuple[str, int]:
    """Return (run-length coded cells, pages a cell) of the heap [start, end), whose pages the walk wrote to `drawn`.

    Pages that are not resident are written to `drawn` as ".".
    """
    base, pages = start // PAGE, (end + PAGE - 1) // PAGE - start // PAGE
    for at in range(0, pages, _STEP):
        _erase(memory, drawn, base, at, min(at + _STEP, pages))
    size = max(1, -(-pages // MOST_CELLS))
    return encode(_letter(bytes(drawn[at : min(at + size, pages)])) for at in range(0, pages, size)), size


def _erase(memory: Memory, drawn: mmap.mmap | bytearray, base: int, first: int, stop: int) -> None:
    """Write "." for every page of [first, stop) that is not resident; halving finds them."""
    resident = memory.resident((base + first) * PAGE, (base + stop) * PAGE)
    if resident == (stop - first) * PAGE:
        return
    if resident == 0 or stop - first == 1:
        drawn[first:stop] = b"." * (stop - first)
        return
    middle = (first + stop) // 2
    _erase(memory, drawn, base, first, middle)
    _erase(memory, drawn, base, middle, stop)


def _letter(pages: bytes) -> str:
    counts = {letter: pages.count(ord(letter)) for letter in LETTERS}
    counts["L"] += pages.count(0)
    return max(LETTERS, key=counts.__getitem__)


def encode(letters: Iterable[str]) -> str:
    """Return the letters run-length coded: "LLP" is "L2P1"."""
    return "".join(f"{letter}{sum(1 for _ in run)}" for letter, run in groupby(letters))


def decode(cells: str) -> Iterator[tuple[str, int]]:
    """Yield each run as (letter, cells). The count may be of any size: never expand it without a bound."""
    for letter, count in _RUN.findall(cells):
        yield letter, int(count)


def draw(census: Census) -> tuple[HeapMap, ...]:
    """Return the drawings of a census that was taken with `draw=True`, the main heap first, at most 64."""
    numbers: dict[int, int] = {}
    maps: list[HeapMap] = []
    for heap in census.heaps:
        number = numbers.setdefault(heap.arena, len(numbers))
        if heap.cells and len(maps) < _MOST_HEAPS:
            name = "main heap" if heap.main else f"thread arena {number}"
            start = heap.start & -PAGE
            maps.append(HeapMap(name=name, start=start, page_size=PAGE, pages_per_cell=heap.pages_per_cell, cells=heap.cells))
    return tuple(maps)


def _shrink(cells: str, size: int) -> Iterator[str]:
    """Yield one letter for every `size` cells: what most of them are. Linear in the runs and in what comes out."""
    counts: Counter[str] = Counter()
    room = size
    for letter, count in decode(cells):
        left = count
        if room < size:
            taken = min(left, room)
            counts[letter] += taken
            room, left = room - taken, left - taken
            if not room:
                yield max(LETTERS, key=counts.__getitem__)
                counts, room = Counter(), size
        for _ in range(left // size):
            yield letter
        if left % size:
            counts[letter] += left % size
            room -= left % size
    if counts:
        yield max(LETTERS, key=counts.__getitem__)


def lines(map_: HeapMap, *, width: int, rows: int) -> Iterator[str]:
    """Yield the drawing in at most `rows` lines of `width` columns below a line that names it and says its scale."""
    cells = sum(count for _, count in decode(map_.cells))
    room = max(1, width * rows)
    size = max(1, -(-cells // room))
    scale = format_size(size * map_.pages_per_cell * map_.page_size)
    yield f"{map_.name} at {map_.start:#x}, one letter for {scale}"
    text = "".join(_shrink(map_.cells, size))
    for at in range(0, len(text), width):
        yield text[at : at + width]
