"""The census: classify every resident page of one process, by reading its memory.

Knows how to find the heaps (arenas.find_state in the C library's writable data), the pools and the mmapped chunks, and
which checks must close. Works the same on a frozen copy of this process and on any other process of the same user.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from pytest_rssguard import arenas, heaps, poolscan, tcache
from pytest_rssguard.elf import bss_range
from pytest_rssguard.errors import InconsistentMemoryError
from pytest_rssguard.image import PAGE, Image
from pytest_rssguard.model import Census, Heap, Kind, MallocStats, Piece, Pools, PoolStats, Region
from pytest_rssguard.regions import is_anonymous, is_bare

#: More mmapped chunks than this are not what they seem (M_MMAP_MAX is 65,536 by default).
_MOST_CHUNKS: Final = 1 << 18


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
    learn_key: bool = False,
    ends: Mapping[int, int] | None = None,
) -> Census:
    """Return the census of the process behind `image`, whose mappings are `regions` (sorted by address).

    `key`: its tcache key. `malloc`, `pools`: its own statistics at the same instant, for the closing checks; None skips
    them. `pymalloc`, `glibc`: whether there can be pools, or heaps of glibc. `slack`: bytes of heap by which `malloc` may
    be off. `draw`: also draw each heap page by page (`Heap.cells`; heapmap.draw names them). `learn_key`: find the key
    out from memory (tcache.learn), for a process that cannot be asked. `ends`: where its heaps ended at the baseline
    (heaps.Walker). Never raises for what it finds: it lists it in `problems`.
    """
    started = time.perf_counter()
    problems: list[str] = []
    walked: list[Heap] = []
    found: list[heaps.Arena] = []
    bss: tuple[tuple[int, int], ...] = ()
    try:
        bss = tuple(_bss(image, regions))
        found = heaps.find(image, regions) if glibc else []
        walker = heaps.Walker(image, key=tcache.learn(image, found) if learn_key else key, draw=draw, ends=ends)
        for arena in found:
            walked.extend(walker.walk(arena, lambda: _joined(_rest(regions, found, bss))))
    except InconsistentMemoryError as error:
        problems.append(f"heap walk: {error}")
    beyond = _beyond(walked, found)
    rest = _joined(_rest(regions, found, (*bss, *((heap.start, heap.end) for heap in beyond))))
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
        heaps=tuple(walked),
        pools=pool_totals,
        pieces=tuple(sorted([*pieces, *chunks], key=lambda piece: piece.start)),
        chunks=len(chunks),
        chunk_bytes=sum(chunk.end - chunk.start for chunk in chunks),
        chunk_resident=sum(chunk.resident for chunk in chunks),
        arena=sum(arena.state.system_mem for arena in found),
        beyond=sum(image.resident(heap.start, heap.end) for heap in beyond),
        bss=bss,
        malloc=malloc,
        pool_stats=pools,
        seconds=time.perf_counter() - started,
    )
    problems.extend(_malloc_gaps(census, slack) if malloc and not problems else ())
    problems.extend(_pool_gaps(census, slack) if pools and pool_totals else ())
    return replace(census, problems=tuple(problems))


def _beyond(walked: Iterable[Heap], found: Iterable[heaps.Arena]) -> list[Heap]:
    """Return the parts of the main heap that lie outside [heap]."""
    inside = [span for arena in found if arena.main for span in arena.heaps]
    return [heap for heap in walked if heap.main and not any(start <= heap.start < end for start, end in inside)]


def _malloc_gaps(census: Census, slack: int) -> Iterator[str]:
    """Yield where the walk and mallinfo2 disagree. glibc 2.43 counts hblkhd 400 bytes too high once."""
    stats = census.malloc
    assert stats is not None
    walked = sum(heap.end - heap.start for heap in census.heaps)
    free, fast = sum(heap.free for heap in census.heaps), sum(heap.fast for heap in census.heaps)
    if not census.heaps:
        yield "no glibc heap found"
        return
    if census.arena != stats.arena:
        yield f"arenas hold {census.arena:,} B, mallinfo2 says {stats.arena:,}"
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


def _bss(image: Image, regions: Collection[Region]) -> Iterator[tuple[int, int]]:
    """Yield the .bss of every mapped ELF file whose data is followed by anonymous memory: [start, end)."""
    for before, after in pairwise(regions):
        if before.end == after.start and before.inode and "w" in before.perms and is_bare(after):
            base = next((r.start for r in regions if r.path == before.path and r.offset == 0), None)
            span = bss_range(image.read(base, 4096, path=before.path), base) if base is not None else None
            if span and span[0] <= after.start < span[1]:
                yield after.start, min(span[1], after.end)


def _rest(
    regions: Collection[Region], found: Sequence[heaps.Arena], others: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield the resident anonymous ranges that are no heap and none of `others` (.bss, parts of the main heap)."""
    taken = sorted(
        [(first & -arenas.HEAP_MAX, end) for arena in found if not arena.main for first, end in arena.heaps] + list(others)
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
    count = 0
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
                    count += 1
                    if count > _MOST_CHUNKS:
                        raise InconsistentMemoryError(f"more than {_MOST_CHUNKS:,} mmapped chunks", address=at)
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
