"""Find the heaps of glibc's malloc in a process, and walk them.

Knows main_arena (found in writable data by its shape), its list of arenas, the heaps of each, and where the main heap
continues after something else took the end of it: sysmalloc then closes the old part with two fenceposts and goes on
behind the intruder, or in mappings of its own (glibc malloc/malloc.c, sysmalloc, sysmalloc_mmap_fallback). What was found
is believed only if its size is what the arena says it has got (system_mem): this needs no help from the process.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pytest_rssguard import arenas, heapmap, heapwalk
from pytest_rssguard.errors import InconsistentMemoryError
from pytest_rssguard.image import PAGE, Image
from pytest_rssguard.model import Heap, Region

#: More arenas, heaps or fastbin entries than this are a broken list, not a program (8 arenas a core by default).
_MOST_ARENAS: Final = 4096
#: 2.42 is the last release with fastbins (NEWS for 2.43).
_MOST_FAST: Final = 1 << 24
_SHARED_LIBC: Final = ("/libc.so", "/libc-2.", "/ld-musl")
#: Two fenceposts of 16 bytes end a part of a heap that malloc has left behind.
_FENCE: Final = 32
#: How far behind an intruder the main heap is looked for, in bytes, and how many chunks are followed for it in vain.
_FAR: Final = 64 << 20
_STEPS: Final = 1 << 23
#: As many chunks in a row show where the main heap starts.
_TASTE: Final = 16
#: Linux, include/uapi/asm-generic/mman-common.h; the mmap module names it from 3.13 on.
_MAP_NORESERVE: Final = 0x4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """One arena: its state, and its heaps as (first chunk, end). The main arena's are [heap], if there is one."""

    state: arenas.ArenaState
    heaps: tuple[tuple[int, int], ...]
    main: bool


def _words(image: Image, start: int, end: int) -> Iterator[tuple[memoryview, int]]:
    """Yield the resident words of [start, end), at most 4 MiB, as (words, address of the first)."""
    for run_start, run_end in image.runs(start, min(end, start + (4 << 20))):
        view = image.stretch(max(run_start, start), min(run_end, end))
        if view is not None:
            words, base, limit = view
            yield words[: (min(limit, end) - base) >> 3], base


def _writable_data(regions: Collection[Region]) -> Iterator[tuple[int, int]]:
    """Yield the writable data of the C library first, then of every other file (a static program's malloc is there)."""
    files = [r for r in regions if r.inode and r.perms.startswith("rw") and r.perms.endswith("p") and r.rss]
    for shared in (True, False):
        for region in files:
            if any(name in region.path for name in _SHARED_LIBC) == shared:
                yield region.start, region.end


def find(image: Image, regions: Collection[Region]) -> list[Arena]:
    """Find main_arena, follow its list of arenas, and find every heap of each. Empty: no malloc of glibc is in use."""
    for start, end in _writable_data(regions):
        for words, base in _words(image, start, end):
            state = arenas.find_state(words, base)
            if state is not None:
                return _follow(image, regions, state)
    return []


def _follow(image: Image, regions: Collection[Region], main: arenas.ArenaState) -> list[Arena]:
    ranges = [(r.start, r.end) for r in regions if r.path == "[heap]"]
    # from the list pointer of main_arena back to its start: `next` of the last arena points there
    heap = ((_first(image, ranges[0][0], ranges[-1][1], main.top), ranges[-1][1]),) if ranges else ()
    found = [Arena(state=main, heaps=heap, main=True)]
    next_ = main.next
    while not 0 <= main.bins - next_ < 256:  # main_arena itself: its bins are a few words behind its start
        if len(found) > _MOST_ARENAS:
            raise InconsistentMemoryError("endless list of arenas", address=next_)
        state = _thread_arena(image, next_)
        found.append(Arena(state=state, heaps=tuple(_thread_heaps(image, next_, state)), main=False))
        next_ = state.next
    return found


def _first(image: Image, start: int, end: int, top: int) -> int:
    """Return where the main heap starts in [heap]: at its start, but where others had moved the end of the heap first."""
    at = start
    for _ in range(_TASTE):
        size = (image.word(at + 8) or 0) & -8
        if at == top or (size == 16 and at != start):
            return start
        if size < 32 or size & 15 or at + size >= end:
            return Walker(image, key=None).resume(start + 16, end, top) or start
        at += size
    return start


def _thread_arena(image: Image, address: int) -> arenas.ArenaState:
    for words, base in _words(image, address & -PAGE, (address & -PAGE) + 2 * PAGE):
        state = arenas.find_state(words, base)
        if state is not None and 0 <= state.bins - address < 256:
            return state
    raise InconsistentMemoryError("no arena where the list of arenas points", address=address)


def _thread_heaps(image: Image, arena: int, state: arenas.ArenaState) -> Iterator[tuple[int, int]]:
    """Yield (first chunk, end) of each heap of a thread arena, from the newest back to the one that holds the arena."""
    base = state.top & -arenas.HEAP_MAX
    for _ in range(_MOST_ARENAS):
        view = image.window(base, base + PAGE)
        if view is None:
            break
        words, start, _end = view
        i = (base - start) >> 3
        owner, previous, size = words[i], words[i + 1], words[i + 2]
        header = arenas.heap_header_size(words[i : i + 6])
        if owner != arena or not 0 < size <= arenas.HEAP_MAX or size % PAGE:
            break
        first = arenas.first_chunk(state) if base <= arena < base + arenas.HEAP_MAX else base + header
        yield first, base + size
        if not previous:
            return
        base = previous
    raise InconsistentMemoryError("no heap where an arena points", address=base)


class Walker:
    """Walks the heaps of one process's arenas. `key`: its tcache key. `draw`: also draw each heap.

    `ends`: where each heap ended at an earlier time, by the address of the 64 MiB that it is aligned to, the main heap's
    under 0; empty where nobody knows. A heap that is not in it was not there then.
    """

    def __init__(
        self, image: Image, *, key: int | None, draw: bool = False, ends: Mapping[int, int] | None = None
    ) -> None:  # fmt: skip
        self._image = image
        self._ends = ends or {}
        self._key = key
        self._draw = draw
        self._steps = _STEPS

    def _boundaries(self, arena: Arena) -> Iterator[int | None]:
        """Yield where each heap of a thread arena ended before, newest first; behind that of the top then all are older."""
        old = not self._ends
        for first, _end in arena.heaps:
            then = self._ends.get(first & -arenas.HEAP_MAX)
            yield None if old else first if then is None else then
            old = old or then is not None

    def walk(self, arena: Arena, rest: Callable[[], Sequence[tuple[int, int]]] = tuple) -> list[Heap]:
        """Return the heaps of `arena`. Raises InconsistentMemoryError where they are not what the arena says.

        `rest`: answers the ranges of anonymous memory where a main heap may continue that could not grow.
        """
        fastbins = _fastbins(self._image, arena.state)
        if not arena.main:
            found = [
                replace(self._one(arena, first, end, fastbins, new_from), start=first & -arenas.HEAP_MAX)
                for (first, end), new_from in zip(arena.heaps, self._boundaries(arena), strict=True)
            ]
            for heap in found:  # it ends with its top, or with what was left behind: two headers, or one
                if heap.end - heap.walked not in ({0} if heap.start < arena.state.top < heap.end else {16, _FENCE}):
                    raise InconsistentMemoryError(
                        "a thread's heap that does not end where its memory does", address=heap.walked
                    )
            size = sum(heap.end - heap.start for heap in found)
            if size != arena.state.system_mem:
                raise InconsistentMemoryError(
                    f"a thread's heaps have {size:,} B, their arena says {arena.state.system_mem:,}", address=arena.state.bins
                )
            return found
        parts = [each for first, end in arena.heaps for each in self._parts(arena, first, end, fastbins)]
        missing = arena.state.system_mem - _span(parts)
        if missing in {0, -_gaps(parts)}:
            return parts
        # once malloc has gone on in mappings, what others take of the heap is no longer counted
        beyond = list(self._beyond(arena, rest(), {missing, missing + _gaps(parts)}, fastbins))
        if sum(each.end - each.start for each in beyond) not in {missing, missing + _gaps(parts)}:
            raise InconsistentMemoryError(
                f"the main heap has {sum(each.end - each.start for each in parts + beyond):,} B, its arena says "
                f"{arena.state.system_mem:,}",
                address=arena.state.bins,
            )
        return parts + beyond

    def _one(
        self, arena: Arena, first: int, end: int, fastbins: mmap.mmap | None, new_from: int | None = None
    ) -> Heap:  # fmt: skip
        image, state = self._image, arena.state
        inside = first <= state.top < end
        marks = _Marks(first, end, fastbins) if fastbins else None
        drawn = heapmap.canvas(first, end) if self._draw else None
        top_end = state.top + ((image.word(state.top + 8) or 0) & -8)
        releasable = arena.main and any(top_end == heap_end for _, heap_end in arena.heaps)
        try:
            heap = heapwalk.walk(
                image,
                first,
                end,
                top=state.top if inside else None,
                key=self._key,
                main=arena.main,
                top_releasable=releasable,
                fast=marks.bytes if marks else None,
                drawn=drawn,
                new_from=new_from,
            )
        finally:
            if marks:
                marks.close()
        cells, pages_per_cell = heapmap.fold(image, drawn, first, end) if drawn else ("", 0)
        below = first if arena.main else first & -arenas.HEAP_MAX
        return replace(
            heap, metadata=heap.metadata + image.resident(below, first), arena=state.bins, cells=cells,
            pages_per_cell=pages_per_cell,
        )  # fmt: skip

    def _parts(self, arena: Arena, first: int, end: int, fastbins: mmap.mmap | None) -> Iterator[Heap]:
        """Yield the parts of the main heap in [first, end): one, unless something else moved the end of the heap."""
        at: int | None = first
        for _ in range(_MOST_ARENAS):
            if at is None:
                return
            try:
                heap = self._one(arena, at, end, fastbins, self._ends.get(0))
            except InconsistentMemoryError:
                if at != first or (at := self.resume(first + 16, end, arena.state.top)) is None:
                    raise
                continue
            stop = heap.walked + _FENCE
            if arena.state.top < heap.walked or stop >= end:
                # behind the top lies what others took after malloc: it is no part of this heap
                yield heap if arena.state.top >= heap.walked else self._cut(heap, heap.walked)
                return
            yield self._cut(heap, stop)
            at = self.resume(stop, end, arena.state.top)

    def _cut(self, heap: Heap, end: int) -> Heap:
        return replace(heap, end=end, metadata=heap.metadata - self._image.resident(end, heap.end)) if end < heap.end else heap

    def resume(self, start: int, end: int, top: int) -> int | None:
        """Return the first address from `start` on where a chain of chunks starts that holds, up to `top` or a fencepost."""
        image = self._image
        at = (start + 15) & -16
        limit = min(end, at + _FAR)
        while at < limit:
            view = image.window(at, limit)
            if view is None:
                at = (at | (PAGE - 1)) + 1
                continue
            words, base, view_end = view
            candidates = [
                base + 8 * i - 8
                for i in range(((at - base) >> 3) + 1, (min(view_end, limit) - base) >> 3, 2)
                if words[i] & 7 == 1 and 32 <= words[i] & -8 <= end - base
            ]
            for candidate in candidates:
                if self._holds(candidate, end, top):
                    return candidate
            at = min(view_end, limit)
        return None

    def _holds(self, start: int, end: int, top: int) -> int:
        """Return where the part of a heap that starts at `start` ends (at its fenceposts or its top), or 0."""
        at, word = start, self._image.word
        while at + 16 <= end and self._image.window(at, end):  # keeps the words ahead in the window
            size = (word(at + 8) or 0) & -8
            if at == top:
                return at + size if size >= 32 and at + size <= end else 0
            if size == 16 and at != start:
                return at + _FENCE if (word(at + 24) or 0) & -8 == 16 else 0
            self._steps -= 1
            if size < 32 or size & 15 or self._steps < 0:
                return 0
            at += size
        return 0

    def _beyond(
        self, arena: Arena, rest: Sequence[tuple[int, int]], wanted: set[int], fastbins: mmap.mmap | None
    ) -> Iterator[Heap]:
        """Yield parts of the main heap in mappings of their own, until they are as many bytes as are `wanted`."""
        got = 0
        for start, end in rest:
            at = start
            while at < end and got < max(wanted):
                runs = self._image.runs(at, end)
                covered = self._image.covered_to
                for page in (page for run in runs for page in range(run[0], run[1], PAGE)):
                    stop = self._part_at(page, end, arena.state.top) if page >= at else 0
                    if stop:
                        yield self._one(arena, page, stop, fastbins)
                        got += stop - page
                        at = stop
                at = max(at, covered)

    def _part_at(self, page: int, end: int, top: int) -> int:
        """Return where the part of a main heap that starts on the page at `page` ends, or 0."""
        word = self._image.word
        size = word(page + 8) or 0
        if word(page) or size & 7 != 1 or not 32 <= size & -8 <= end - page:
            return 0
        stop = self._holds(page, end, top)
        return 0 if stop % PAGE else stop


def _span(heap: Sequence[Heap]) -> int:
    """Return how many bytes the parts of a main heap have, with what others took between them."""
    return heap[-1].end - heap[0].start if heap else 0


def _gaps(heap: Sequence[Heap]) -> int:
    """Return how many bytes others took between the parts of a main heap."""
    return _span(heap) - sum(each.end - each.start for each in heap)


class _Marks:
    """Which 16-byte slots of a heap start a chunk that lies in a fastbin: sparse, and not in malloc."""

    def __init__(self, first: int, end: int, chunks: mmap.mmap) -> None:
        self.bytes = _sparse((end - first) // 16 + 1)
        with memoryview(chunks) as raw, raw.cast("Q") as addresses:
            for i in range(1, addresses[0] + 1):
                if first <= addresses[i] < end:
                    self.bytes[(addresses[i] - first) >> 4] = 1

    def close(self) -> None:
        self.bytes.close()


def _sparse(size: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except (OSError, OverflowError, ValueError):
        raise InconsistentMemoryError(f"a heap that needs {size:,} B to remember its fastbins") from None


def _fastbins(image: Image, state: arenas.ArenaState) -> mmap.mmap | None:
    """Return the addresses of all chunks in the arena's fastbins: their number, then each; None if there are none.

    Links are mangled with their own address (2.32+, PROTECT_PTR); a list that does not decode, or that runs in a circle,
    is not followed: where the process tells fsmblks, the closing check then says so.
    """
    if not any(state.fastbins):
        return None
    most = min(state.system_mem // 32, _MOST_FAST)
    buffer = _sparse(8 * (most + 2))
    words = memoryview(buffer).cast("Q")
    count = 0
    for index, head in enumerate(state.fastbins):
        chunk, seen, lap = head, 0, 1  # a circle is met again within twice its length (Brent)
        while chunk and not chunk & 15 and count < most:
            size = image.word(chunk + 8)
            link = image.word(chunk + 16)
            if size is None or link is None or size & -8 != 32 + 16 * index:
                break
            count += 1
            words[count] = chunk
            if count == lap:
                seen, lap = chunk, 2 * lap
            chunk = link ^ ((chunk + 16) >> 12)
            if chunk == seen:
                break
    words[0] = count
    words.release()
    return buffer
