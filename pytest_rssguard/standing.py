"""What stood on each account before the body, where no census was taken then. Pure.

Derived from counters, and from what the census after the body shows of the same addresses (docs/design.md, "What stood
before").
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pytest_rssguard.arenas import HEAP_MAX
from pytest_rssguard.classes import Classes, classify
from pytest_rssguard.growth import malloc_in_use
from pytest_rssguard.heapwalk import PAGE
from pytest_rssguard.model import Account, Census, Kind, MallocStats, Piece, Region, Snapshot

#: A pymalloc arena: Objects/obmalloc.c, ARENA_SIZE, 3.10 and later.
_ARENA: Final = 1 << 20
#: What the tcaches of one thread can hold at most: 7 chunks in each of 64 classes (16 from glibc 2.43: 536 KiB).
TCACHE_MOST: Final = 7 * sum(range(32, 1041, 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What stood before the body in anonymous memory outside [heap], resident bytes."""

    arenas: int
    chunks: int
    mapped: int


def _overlap(region: Region, starts: list[int], ends: list[int]) -> int:
    """Return how many bytes of `region` lie in the sorted, disjoint ranges."""
    total, i = 0, max(bisect_right(starts, region.start) - 1, 0)
    while i < len(starts) and starts[i] < region.end:
        total += max(0, min(region.end, ends[i]) - max(region.start, starts[i]))
        i += 1
    return total


def divide_standing(before: Snapshot, old: Classes, new: Classes, census: Census) -> Standing:
    """Divide what was resident before by what the census shows of the same addresses.

    A piece that lay in a mapping of then is taken to have been what it is now, and as resident, unless the mapping had
    less; what is left over of a mapping that has since lost address space was freed: arenas and mmapped chunks that the
    counters miss, then plain mappings. Errors of this stay inside one mapping and, for held against retained, under one
    partly used pymalloc arena (1 MiB).
    """
    starts, ends = [region.start for region in new.other], [region.end for region in new.other]
    pieces = iter(sorted(census.pieces, key=lambda piece: piece.start))
    piece = next(pieces, None)
    arenas = chunks = mapped = lost_rss = 0
    chunks_then = arenas_then = 0
    for region in old.other:
        inside: list[Piece] = []
        while piece is not None and piece.start < region.end:
            if piece.start >= region.start and piece.end <= region.end:
                inside.append(piece)
            piece = next(pieces, None)
        chunks_then += sum(each.end - each.start for each in inside if each.kind is Kind.CHUNK)
        arenas_then += sum(1 for each in inside if each.kind is Kind.ARENA)
        rss = region.rss - region.lazy_free
        lost = region.size - _overlap(region, starts, ends)
        now = {kind: sum(each.resident for each in inside if each.kind is kind) for kind in Kind}
        only_arenas = lost == 0 and not now[Kind.CHUNK] and _covers(inside, region, new)
        # more is resident now than was: pools of the one arena in use that nobody had touched, if it is no more than
        # that has room for; else a chunk that was all untouched, and the arenas were resident
        chunks_first = now[Kind.CHUNK] + now[Kind.ARENA] - rss <= _ARENA
        in_chunks = min(rss, now[Kind.CHUNK]) if chunks_first else 0
        in_arenas = rss if only_arenas else min(rss - in_chunks, now[Kind.ARENA])
        in_chunks = min(rss - in_arenas, now[Kind.CHUNK])
        left = rss - in_chunks - in_arenas
        gone = min(left, lost)
        arenas, chunks, mapped, lost_rss = (
            arenas + in_arenas,
            chunks + in_chunks,
            mapped + left - gone,
            lost_rss + gone,
        )
    freed_chunks = max(0, (before.malloc.hblkhd if before.malloc else 0) - chunks_then)
    freed_arenas = max(0, (before.pools.arenas if before.pools else 0) - arenas_then)
    to_chunks = min(lost_rss, freed_chunks)
    to_arenas = min(lost_rss - to_chunks, freed_arenas * (before.pools.arena_size if before.pools else 0))
    return Standing(arenas=arenas + to_arenas, chunks=chunks + to_chunks, mapped=mapped + lost_rss - to_chunks - to_arenas)


def _covers(inside: list[Piece], region: Region, new: Classes) -> bool:
    """Whether everything resident in the mapping that now holds `region` is in the pieces: nothing else was there."""
    now = sum(each.rss - each.lazy_free for each in new.other if each.start <= region.start and region.end <= each.end)
    return bool(inside) and now == sum(each.resident for each in inside)


def add_own(stood: dict[Account, int | None], now: MallocStats | None, then: MallocStats | None) -> None:
    """Add what taking the census itself has left in malloc by the time of the baseline's counters."""
    if now is None or then is None or now.tcache is None or then.tcache is None or stood[Account.MALLOC_LIVE] is None:
        return
    cached = now.tcache - then.tcache
    live = now.uordblks + now.hblkhd - then.uordblks - then.hblkhd - cached
    for account, size in ((Account.MALLOC_LIVE, live), (Account.TCACHE, cached), (Account.PINNED, -live - cached)):
        stood[account] = (stood[account] or 0) + size


def derive_stood(
    before: Snapshot, after: Snapshot, census: Census, now: Mapping[Account, int | None]
) -> dict[Account, int | None]:
    """Return what stood on each account before the body, where no census was taken then.

    The heaps had just been trimmed: nothing was trimmable (docs/design.md, "What stood before").
    """
    spans = [heap.start & -HEAP_MAX for heap in census.heaps if not heap.main]
    old, new = classify(before, heaps=spans, bss=census.bss), classify(after, heaps=spans, bss=census.bss)
    other = divide_standing(before, old, new, census)
    stood: dict[Account, int | None] = dict.fromkeys(Account)
    stood[Account.STACK], stood[Account.SHMEM] = old.stack, old.shmem
    stood[Account.FILE], stood[Account.LAZY_FREE] = old.file, old.lazy_free
    stood[Account.MAPPED] = other.mapped
    if before.pools:
        stood[Account.PYTHON_LIVE] = before.pools.allocated
        stood[Account.POOL_FREE] = other.arenas - before.pools.allocated
    if before.malloc is None or not census.heaps:
        return stood
    own_now, own_then = after.malloc.tcache if after.malloc else None, before.malloc.tcache
    if own_now is None or own_then is None:  # filled to the same at both ends: what it holds now, it held then
        cached = min(now[Account.TCACHE] or 0, TCACHE_MOST * before.threads)
    else:
        cached = own_then + max(0, min((now[Account.TCACHE] or 0) - own_now, TCACHE_MOST * (before.threads - 1)))
    arenas = sorted(arena.arena for arena in before.tops)
    metadata = sum(heap.metadata for heap in census.heaps if not heap.main and _holds_one(heap.start, arenas))
    # live memory that nobody had touched yet: what is untouched now, less what came meanwhile. What lies beyond where a
    # heap ended then came meanwhile; of the rest, the body is taken to have touched last what it allocated
    grown = malloc_in_use(after) - malloc_in_use(before) - sum(heap.new_live for heap in census.heaps)
    older = sum(heap.untouched - heap.new_untouched for heap in census.heaps)
    untouched = max(0, older - max(0, grown))
    room = old.heap + old.thread_heaps - cached - metadata
    live = before.malloc.uordblks - cached - metadata - untouched
    top = _top_then(before, after, census)
    live = min(live, max(0, room - top - _pinned_at_least(before, after, now[Account.PINNED] or 0)))
    if live + top > room:
        # more live than was resident: memory that was allocated before, and first written by the body
        live = max(0, min(live, room))
        top = max(0, min(top, room - live))
    stood[Account.MALLOC_LIVE] = live + other.chunks
    stood[Account.TRIMMABLE] = 0
    stood[Account.PINNED] = max(0, room - live - top)
    stood[Account.ARENA_TOP] = top
    stood[Account.TCACHE] = cached
    return stood


def _pinned_at_least(before: Snapshot, after: Snapshot, pinned: int) -> int:
    """Return how much was at least pinned before, if `pinned` bytes are now.

    The baseline trim had released every wholly free page, so freed memory comes to be pinned only where the body freed
    something (the bins hold more), or where it put new live blocks into free ranges: at worst one of 32 bytes on each
    page. Both are differences, which other threads and what the body frees elsewhere can hide; but a page is pinned at
    an end of a free range, so where ranges were split there are more free chunks, with two such pages each. Without
    this bound, live memory that is first written by the body would read as freed in a process that has much pinned.
    """
    if before.malloc is None or after.malloc is None:
        return 0
    freed = max(0, after.malloc.fordblks - before.malloc.fordblks)
    placed = 128 * max(0, malloc_in_use(after) - malloc_in_use(before))
    split = 2 * PAGE * max(0, after.malloc.ordblks - before.malloc.ordblks)
    return max(0, pinned - freed - max(placed, split))


def _holds_one(heap: int, arenas: list[int]) -> bool:
    i = bisect_right(arenas, heap)
    return i < len(arenas) and arenas[i] < heap + HEAP_MAX


def _top_then(before: Snapshot, after: Snapshot, census: Census) -> int:
    """Return the resident bytes of the tops of thread arenas before the body.

    A top that has not moved is as resident as the census finds it. Of one that moved: what its heap had resident beyond
    the bytes below the top.
    """
    resident_now = {heap.start & -HEAP_MAX: heap for heap in census.heaps if not heap.main}
    sizes_now = {arena.arena: arena for arena in after.tops}
    rss_then: dict[int, int] = {}
    for region in before.mappings:
        base = region.start & -HEAP_MAX
        if base in resident_now:
            rss_then[base] = rss_then.get(base, 0) + region.rss
    total = 0
    for then in before.tops:
        base = then.top & -HEAP_MAX
        now, heap = sizes_now.get(then.arena), resident_now.get(base)
        below = then.top - base
        if now is not None and heap is not None and now.top == then.top and now.size == then.size:
            total += min(heap.arena_top, rss_then.get(base, 0))
        else:
            # everything below the top was resident, less the holes that a trim had made: at least the rest was top
            total += max(0, min(then.size, rss_then.get(base, 0) - below))
    return total
