"""Walk one glibc heap by its chunk headers and say what each resident byte of it is.

Pure: reads words through a Memory, knows no process. Sources: glibc malloc/malloc.c 2.36-2.43 (chunk layout at
"malloc_chunk details"; what malloc_trim releases: mtrim and systrim), measured in docs/evidence.md. A chunk's header is
two words (size of the previous chunk, own size | flags); whether a chunk is in use stands in its neighbour's flag.
Chunks in a tcache or a fastbin keep that flag though they are free: the first carry the process's tcache key in their
fourth word, the second are handed in by the caller, who follows the arena's lists.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import Final

from pytest_rssguard.errors import InconsistentMemoryError
from pytest_rssguard.model import Heap, Memory

PAGE: Final = 4096
#: sizeof(struct malloc_chunk): malloc_trim spares the page that holds a free chunk's header and list pointers.
HEADER: Final = 48
#: Chunks up to this size have a size of their own in `Heap.pins`; the largest of the small tcache classes.
EXACT_SIZES: Final = 1040
#: The largest chunk that a fastbin can hold (global_max_fast at its highest, MAX_FAST_SIZE 160 + header).
_FAST_LARGEST: Final = 176


def pin_class(size: int) -> int:
    """Return the key under which live chunks of `size` bytes are counted in `Heap.pins`."""
    return size if size <= EXACT_SIZES else 1 << (size - 1).bit_length()


#: What a walk writes for a page into `drawn`: free and pinned, free and trimmable, the top of an arena; live stays 0.
PINNED_PAGE: Final = ord("P")
TRIMMABLE_PAGE: Final = ord("T")
TOP_PAGE: Final = ord("A")


_NEVER: Final = 1 << 64


@dataclass(slots=True)
class _Free:
    """What free ranges add up to. One free range is what malloc_trim would see after it merged the fastbins."""

    memory: Memory
    drawn: mmap.mmap | bytearray | None = None
    base: int = 0  # the page that drawn[0] stands for
    pinned: int = 0
    pinned_pages: int = 0
    trimmable: int = 0
    last_page: int = -1
    pins: dict[int, int] = field(default_factory=dict)

    def add(self, start: int, end: int, release_from: int, release_to: int) -> None:
        """Book the free range [start, end), of which [release_from, release_to) would be released (may be empty)."""
        if release_from >= release_to:
            self._pin(start, end)
            return
        self.trimmable += self.memory.resident(release_from, release_to)
        self.draw(-(-release_from // PAGE), release_to // PAGE, TRIMMABLE_PAGE)
        self._pin(start, release_from)
        self._pin(release_to, end)

    def draw(self, first: int, stop: int, letter: int) -> None:
        """Write `letter` for the pages [first, stop), in pieces far below 64 KiB: these bytes come from malloc."""
        if self.drawn is None:
            return
        for at in range(first - self.base, stop - self.base, 4096):
            self.drawn[at : min(at + 4096, stop - self.base)] = bytes((letter,)) * min(4096, stop - self.base - at)

    def _pin(self, start: int, end: int) -> None:
        if start >= end:
            return
        self.pinned += self.memory.resident(start, end)
        first, last = max(start // PAGE, self.last_page + 1), (end - 1) // PAGE
        if first <= last:
            self.pinned_pages += self.memory.resident(first * PAGE, (last + 1) * PAGE) // PAGE
            self.draw(first, last + 1, PINNED_PAGE)
            self.last_page = last


def releasable(start: int, end: int) -> tuple[int, int]:
    """Return the range that malloc_trim releases of the free chunk [start, end): whole pages behind its header."""
    if end - start <= PAGE - 1 + HEADER:
        return end, end
    return (start + HEADER + PAGE - 1) & -PAGE, end & -PAGE


def _releasable_top(start: int, end: int) -> tuple[int, int]:
    """Return the range that malloc_trim(0) gives back of the main heap's top (systrim, with pad 0)."""
    extra = (end - start - 32 - 1) & -PAGE
    return (end - extra, end) if extra > 0 else (end, end)


def walk(  # noqa: C901, PLR0912, PLR0915 - one loop over 10**6 chunks: a call per chunk would double its time
    memory: Memory,
    start: int,
    end: int,
    *,
    top: int | None,
    key: int | None,
    main: bool,
    top_releasable: bool = True,
    cached_up_to: int = EXACT_SIZES,
    fast: mmap.mmap | bytes | None = None,
    drawn: mmap.mmap | bytearray | None = None,
    new_from: int | None = None,
) -> Heap:
    """Classify the heap whose first chunk is at `start` and whose memory ends at `end` (addresses, in bytes).

    `top`: address of the arena's top chunk if it lies in this heap. `key`: the tcache key, None where unknown.
    `cached_up_to`: the largest chunk that a tcache takes. `fast[(address - start) // 16]` is nonzero for chunks that lie
    in a fastbin. `main` and `top_releasable`: whose top this is, and whether malloc_trim can give it back. `drawn`: zeroed
    bytes, one for each page from that of `start` to `end`, to write down what is free there (PINNED_PAGE and so on),
    resident or not. `new_from`: where the heap ended at an earlier time; what lies there now came since. Raises
    InconsistentMemoryError where the chain of headers breaks.
    """
    live = blocks = untouched = tcache = free = fast_bytes = arena_top = top_trimmable = 0
    boundary = new_from if new_from is not None else _NEVER
    old_live = old_untouched = -1
    base_page = start >> 12
    book = _Free(memory, drawn, base_page)
    pins = book.pins
    pinned = pages = 0  # of small free ranges, added to the book's at the end
    last_page = -1
    range_start = 0  # of the free range being gathered, 0 while there is none
    range_whole = True
    hot_end = 0  # live chunks that start below it share a page with the free range before them
    page_end = live_end = 0
    recent: list[int] = []  # sizes of live chunks on the page that ends at page_end, not yet counted as pinning
    address = start
    end_of_walk = end

    view = memory.window(address, end)
    if view is None:
        raise InconsistentMemoryError("first chunk header not resident", address=address)
    words, base, limit_address = view
    limit = (limit_address - base) >> 3
    i = (address + 8 - base) >> 3
    size = words[i] & -8

    while address != top:
        if address >= boundary:
            old_live, old_untouched, boundary = live, untouched, _NEVER
        n = i + (size >> 3)
        if size < 32 or size & 15 or address + size > end:
            # a fencepost: this heap was left behind for another (sysmalloc); the last header of all has no size
            if size == 16 or (size == 0 and address + 16 == end):
                end_of_walk = address
                break
            raise InconsistentMemoryError(f"impossible chunk size {size}", address=address)
        if n < limit:
            after = words[n]
            held_key = words[i + 2] if size <= cached_up_to else 0
            resident = size
        else:
            word = memory.word(address + size + 8)
            if word is None:
                raise InconsistentMemoryError("chunk header not resident", address=address + size)
            after = word
            held_key = (memory.word(address + 24) or 0) if size <= cached_up_to else 0
            resident = memory.resident(address, address + size)

        if after & 1 and not (fast is not None and size <= _FAST_LARGEST and fast[(address - start) >> 4]):
            if range_start:
                if range_whole and address - range_start <= PAGE - 1 + HEADER:
                    pinned += address - range_start
                    first, last = range_start >> 12, (address - 1) >> 12
                    if first <= last_page:
                        first = last_page + 1
                    if last >= first:
                        pages += last - first + 1
                        last_page = last
                        if drawn is not None:
                            drawn[last - base_page] = 80  # PINNED_PAGE
                            if last > first:
                                book.draw(first, last, 80)
                else:
                    book.last_page = last_page
                    book.add(range_start, address, *releasable(range_start, address))
                    last_page = book.last_page
                hot_end = (address + 4095) & -4096
                range_start = 0
                range_whole = True
            if key is not None and held_key == key:
                tcache += resident
            else:
                live += resident
                untouched += size - resident
                blocks += 1
                if address < hot_end:
                    kind = size if size <= 1040 else pin_class(size)
                    pins[kind] = pins.get(kind, 0) + 1
                else:
                    if address >= page_end:
                        if recent:
                            recent = recent[-1:] if live_end > address & -4096 else []
                        page_end = (address | 4095) + 1
                    recent.append(size)
                live_end = address + size
        else:
            if after & 1:
                fast_bytes += size
            else:
                free += size
            if resident != size:
                range_whole = False
            if not range_start:
                range_start = address
                if recent:
                    if address & 4095:
                        page = address & -4096
                        if page_end - 4096 != page:
                            recent = recent[-1:] if live_end > page else []
                        for pin in recent:
                            kind = pin_class(pin)
                            pins[kind] = pins.get(kind, 0) + 1
                    recent = []

        address += size
        if n < limit:
            i = n
        else:
            view = memory.window(address, end)
            if view is None:
                raise InconsistentMemoryError("chunk header not resident", address=address)
            words, base, limit_address = view
            limit = (limit_address - base) >> 3
            i = (address + 8 - base) >> 3
            if i >= limit:
                raise InconsistentMemoryError("chunk header not resident", address=address)
        size = after & -8

    if old_live < 0:
        old_live, old_untouched = live, untouched
    book.last_page = last_page
    if address == top:
        if address + size > end or size < 16:
            raise InconsistentMemoryError(f"impossible top size {size}", address=address)
        free += size
        top_start, end_of_walk = range_start or address, address + size
        if main and top_releasable:
            below = book.trimmable
            book.add(top_start, end_of_walk, *_releasable_top(top_start, end_of_walk))
            top_trimmable = book.trimmable - below
        else:
            arena_top = memory.resident(top_start, end_of_walk)
            book.draw((top_start + PAGE - 1) // PAGE, end_of_walk // PAGE, TOP_PAGE)
    elif range_start:
        book.add(range_start, end_of_walk, *releasable(range_start, end_of_walk))
    return Heap(
        start=start, end=end, main=main, live=live, live_blocks=blocks, untouched=untouched, tcache=tcache, free=free,
        fast=fast_bytes, pinned=pinned + book.pinned, pinned_pages=pages + book.pinned_pages, trimmable=book.trimmable,
        top_trimmable=top_trimmable, arena_top=arena_top, metadata=memory.resident(end_of_walk, end), pins=pins,
        walked=end_of_walk, new_live=live + untouched - old_live - old_untouched, new_untouched=untouched - old_untouched,
    )  # fmt: skip
