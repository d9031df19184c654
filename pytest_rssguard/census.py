"""The census: classify every resident page of one process, by reading its memory.

Knows how to find the heaps (arenas.find_state in the C library's writable data), the pools and the mmapped chunks, and
which checks must close. Works the same on a frozen copy of this process and on any other process of the same user.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from pytest_rssguard import arenas, heapmap, heapwalk, poolscan
from pytest_rssguard.elf import bss_range
from pytest_rssguard.errors import InconsistentMemoryError
from pytest_rssguard.image import PAGE, Image
from pytest_rssguard.model import Census, Heap, Kind, MallocStats, Piece, Pools, PoolStats, Region
from pytest_rssguard.regions import is_anonymous, is_bare

#: More arenas, heaps or fastbin entries than this are a broken list, not a program (8 arenas a core by default).
_MOST_ARENAS: Final = 4096
#: 2.42 is the last release with fastbins (NEWS for 2.43).
_MOST_FAST: Final = 1 << 24
_SHARED_LIBC: Final = ("/libc.so", "/libc-2.", "/ld-musl")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arena:
    state: arenas.ArenaState
    heaps: tuple[tuple[int, int], ...]  # (first chunk, end)
    main: bool


def take(
    image: Image,
    regions: Collection[Region],
    *,
    key: int | None,
    malloc: MallocStats | None = None,
    pools: PoolStats | None = None,
    pymalloc: bool = True,
    glibc: bool = True,
    slack: int = 0,
    draw: bool = False,
) -> Census:
    """Return the census of the process behind `image`, whose mappings are `regions` (sorted by address).

    `key`: its tcache key. `malloc`, `pools`: its own statistics at the same instant, for the closing checks; None skips
    them. `pymalloc`, `glibc`: whether there can be pools, or heaps of glibc. `slack`: bytes of heap by which `malloc` may
    be off. `draw`: also draw each heap page by page (`Heap.cells`; heapmap.draw names them). Never raises for what it
    finds: it lists it in `problems`.
    """
    started = time.perf_counter()
    problems: list[str] = []
    heaps: list[Heap] = []
    found: list[_Arena] = []
    try:
        found = _arenas(image, regions) if glibc else []
        for arena in found:
            heaps.extend(_walk(image, arena, key, draw=draw))
    except InconsistentMemoryError as error:
        problems.append(f"heap walk: {error}")
    bss = tuple(_bss(image, regions))
    rest = _joined(_rest(regions, found, bss))
    pool_totals: Pools | None = None
    pieces: list[Piece] = []
    chunks: list[Piece] = []
    try:
        if pymalloc:
            pool_totals, pieces = poolscan.scan(image, rest)
        chunks = list(_mmapped_chunks(image, rest, pieces)) if glibc else []
    except InconsistentMemoryError as error:
        problems.append(f"anonymous memory: {error}")
    census = Census(
        heaps=tuple(heaps),
        pools=pool_totals,
        pieces=tuple(sorted([*pieces, *chunks], key=lambda piece: piece.start)),
        chunks=len(chunks),
        chunk_bytes=sum(chunk.end - chunk.start for chunk in chunks),
        chunk_resident=sum(chunk.resident for chunk in chunks),
        bss=bss,
        malloc=malloc,
        pool_stats=pools,
        seconds=time.perf_counter() - started,
    )
    system_mem = sum(arena.state.system_mem for arena in found)
    problems.extend(_malloc_gaps(census, system_mem, slack) if malloc and not problems else ())
    problems.extend(_pool_gaps(census, slack) if pools and pool_totals else ())
    return replace(census, problems=tuple(problems))


def _malloc_gaps(census: Census, system_mem: int, slack: int) -> Iterator[str]:
    """Yield where the walk and mallinfo2 disagree. glibc 2.43 counts hblkhd 400 bytes too high once."""
    stats = census.malloc
    assert stats is not None
    walked = sum(heap.end - heap.start for heap in census.heaps)
    free, fast = sum(heap.free for heap in census.heaps), sum(heap.fast for heap in census.heaps)
    if not census.heaps:
        yield "no glibc heap found"
        return
    if system_mem != stats.arena:
        yield f"arenas hold {system_mem:,} B, mallinfo2 says {stats.arena:,}"
    if walked > stats.arena:
        yield f"heaps walked have {walked:,} B, mallinfo2 says {stats.arena:,}"
    # the frozen copy may itself free or take a few small blocks (`slack`)
    if abs(free - stats.fordblks + stats.fsmblks) > slack:
        yield f"free chunks have {free:,} B, mallinfo2 says {stats.fordblks - stats.fsmblks:,}"
    if abs(fast - stats.fsmblks) > slack:
        yield f"fastbins have {fast:,} B, mallinfo2 says {stats.fsmblks:,}"
    if census.chunks != stats.hblks or not 0 <= stats.hblkhd - census.chunk_bytes <= 400:
        yield (
            f"{census.chunks} mmapped chunks have {census.chunk_bytes:,} B, mallinfo2 says {stats.hblks} with {stats.hblkhd:,}"
        )


def _pool_gaps(census: Census, slack: int) -> Iterator[str]:
    """Yield where the pool scan and pymalloc's statistics disagree."""
    assert census.pools is not None
    assert census.pool_stats is not None
    if abs(census.pools.used - census.pool_stats.used_pools) > slack // poolscan.POOL:
        yield f"{census.pools.used:,} pools in use found, pymalloc says {census.pool_stats.used_pools:,}"
    if abs(census.pools.live - census.pool_stats.allocated) > max(4096, slack):
        yield f"pools have {census.pools.live:,} B live, pymalloc says {census.pool_stats.allocated:,}"


def _words(image: Image, start: int, end: int) -> Iterator[tuple[memoryview, int]]:
    """Yield the resident words of [start, end), at most 4 MiB, as (words, address of the first)."""
    for run_start, run_end in image.runs(start, min(end, start + (4 << 20))):
        view = image.window(max(run_start, start), min(run_end, end))
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


def _arenas(image: Image, regions: Collection[Region]) -> list[_Arena]:
    """Find main_arena, follow its list of arenas, and find every heap of each."""
    for start, end in _writable_data(regions):
        for words, base in _words(image, start, end):
            state = arenas.find_state(words, base)
            if state is not None:
                return _follow(image, regions, state)
    return []


def _follow(image: Image, regions: Collection[Region], main: arenas.ArenaState) -> list[_Arena]:
    ranges = [(r.start, r.end) for r in regions if r.path == "[heap]"]
    if not ranges:
        raise InconsistentMemoryError("main arena without a [heap]", address=main.top)
    # from the list pointer of main_arena back to its start: `next` of the last arena points there
    found = [_Arena(state=main, heaps=((ranges[0][0], ranges[-1][1]),), main=True)]
    next_ = main.next
    while not 0 <= main.bins - next_ < 256:  # main_arena itself: its bins are a few words behind its start
        if len(found) > _MOST_ARENAS:
            raise InconsistentMemoryError("endless list of arenas", address=next_)
        state = _thread_arena(image, next_)
        found.append(_Arena(state=state, heaps=tuple(_thread_heaps(image, next_, state)), main=False))
        next_ = state.next
    return found


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


def _walk(image: Image, arena: _Arena, key: int | None, *, draw: bool) -> Iterator[Heap]:
    fastbins = _fastbins(image, arena.state)
    for first, end in arena.heaps:
        start = first & -arenas.HEAP_MAX if not arena.main else first
        inside = first <= arena.state.top < end
        marks = _Marks(first, end, fastbins) if fastbins else None
        drawn = heapmap.canvas(first, end) if draw else None
        top_end = (image.word(arena.state.top + 8) or 0) & -8
        heap = heapwalk.walk(
            image,
            first,
            end,
            top=arena.state.top if inside else None,
            key=key,
            main=arena.main,
            top_releasable=arena.main and arena.state.top + top_end == end,
            fast=marks.bytes if marks else None,
            drawn=drawn,
        )
        cells, pages_per_cell = heapmap.fold(image, drawn, first, end) if drawn else ("", 0)
        yield replace(
            heap, start=start, metadata=heap.metadata + image.resident(start, first), arena=arena.state.bins, cells=cells,
            pages_per_cell=pages_per_cell,
        )  # fmt: skip
        if marks:
            marks.close()


class _Marks:
    """Which 16-byte slots of a heap start a chunk that lies in a fastbin: sparse, and not in malloc."""

    def __init__(self, first: int, end: int, chunks: mmap.mmap) -> None:
        self.bytes = mmap.mmap(-1, (end - first) // 16 + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with memoryview(chunks) as raw, raw.cast("Q") as addresses:
            for i in range(1, addresses[0] + 1):
                if first <= addresses[i] < end:
                    self.bytes[(addresses[i] - first) >> 4] = 1

    def close(self) -> None:
        self.bytes.close()


def _fastbins(image: Image, state: arenas.ArenaState) -> mmap.mmap | None:
    """Return the addresses of all chunks in the arena's fastbins: their number, then each; None if there are none.

    Links are mangled with their own address (2.32+, PROTECT_PTR); a list that does not decode is not followed: the
    closing check against fsmblks then says so.
    """
    if not any(state.fastbins):
        return None
    buffer = mmap.mmap(-1, 8 * (state.system_mem // 32 + 2), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    words = memoryview(buffer).cast("Q")
    count, most = 0, min(len(words) - 1, _MOST_FAST)
    for index, head in enumerate(state.fastbins):
        chunk = head
        while chunk and not chunk & 15 and count < most:
            size = image.word(chunk + 8)
            link = image.word(chunk + 16)
            if size is None or link is None or size & -8 != 32 + 16 * index:
                break
            count += 1
            words[count] = chunk
            chunk = link ^ ((chunk + 16) >> 12)
    words[0] = count
    words.release()
    return buffer


def _bss(image: Image, regions: Collection[Region]) -> Iterator[tuple[int, int]]:
    """Yield the .bss of every mapped ELF file whose data is followed by anonymous memory: [start, end)."""
    for before, after in pairwise(regions):
        if before.end == after.start and before.inode and "w" in before.perms and is_bare(after):
            base = next((r.start for r in regions if r.path == before.path and r.offset == 0), None)
            span = bss_range(image.read(base, 4096), base) if base is not None else None
            if span and span[0] <= after.start < span[1]:
                yield after.start, min(span[1], after.end)


def _rest(regions: Collection[Region], found: Sequence[_Arena], bss: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the resident anonymous ranges that are no heap and no .bss."""
    taken = sorted(
        [(first & -arenas.HEAP_MAX, end) for arena in found if not arena.main for first, end in arena.heaps] + list(bss)
    )
    for region in regions:
        if not (is_anonymous(region) and region.rss and region.path not in {"[heap]", "[stack]"}):
            continue
        at = region.start
        for start, end in taken:
            if end <= at or start >= region.end:
                continue
            if start > at:
                yield at, start
            at = max(at, end)
        if at < region.end:
            yield at, region.end


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges with those joined that touch: madvise splits a mapping, and with it one malloc chunk."""
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _mmapped_chunks(image: Image, rest: Sequence[tuple[int, int]], pools: Sequence[Piece]) -> Iterator[Piece]:
    """Yield every chunk that malloc got by mmap: header flag 2, whole pages (sysmalloc_mmap, munmap_chunk).

    An aligned allocation moves the header up by its first word; from 2.43 on sizes are 16 below whole pages.
    """
    starts = {piece.start: piece.end for piece in pools}
    for start, end in rest:
        at = start
        while at < end:
            if not (runs := image.runs(at, end)):
                at = image.covered_to
                continue
            covered = image.covered_to
            for run_start, run_end in runs:
                at = max(at, run_start)
                while at < run_end:
                    if at in starts:
                        at = starts[at]
                        continue
                    chunk = _chunk_at(image, at, start, end)
                    if chunk is None:
                        at += PAGE
                        continue
                    yield Piece(kind=Kind.CHUNK, start=chunk[0], end=chunk[1], resident=image.resident(*chunk))
                    at = chunk[1]
            at = max(at, covered)


def _chunk_at(image: Image, page: int, start: int, end: int) -> tuple[int, int] | None:
    """Return the mmapped chunk [start, end) whose header is on the page at `page`, or None."""
    view = image.window(page, end)
    if view is None:
        return None
    words, base, _ = view
    i = (page - base) >> 3
    for offset in (0, 16, 48, 112, 240, 496, 1008, 2032, 4080):
        size = words[i + (offset >> 3) + 1]
        if size & 7 != 2 or (size & 4095) not in {2, 4082 - offset & 4095 | 2, 4096 - offset & 4095 | 2}:
            continue
        lead = words[i + (offset >> 3)]
        first = page + offset - lead
        last = page + offset + (size & -8)
        last = (last + 4095) & -4096 if last & 4095 == 4080 else last
        if (
            (lead == offset or (offset == 4080 and lead & 4095 == 4080))
            and start <= first < last <= end
            and not (first & 4095 or last & 4095)
        ):
            return first, last
    return None
