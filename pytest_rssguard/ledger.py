"""Close the books: book every byte of RSS growth on exactly one account.

Pure. `booked` does the bookkeeping identity: whatever no account covers is `unexplained`, so the accounts sum to the
growth by construction. `by_census` divides the growth where a census was taken after the body; what stood before is
derived from counters and from what the census shows of the same addresses (docs/design.md, "What stood before").
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pytest_rssguard.arenas import HEAP_MAX
from pytest_rssguard.model import (
    HELD,
    RETAINED,
    Account,
    Census,
    Kind,
    MallocStats,
    Piece,
    Region,
    Snapshot,
)
from pytest_rssguard.regions import is_anonymous, is_shared_memory

#: pthread_create's guard is one page by default; its stack is RLIMIT_STACK (8 MiB), or what the program asks for.
_GUARD_MOST: Final = 1 << 20
_STACK_LEAST: Final = 1 << 20
_STACK_MOST: Final = 1 << 30
#: glibc keeps stacks of ended threads up to 40 MiB of address space (nptl/allocatestack.c, stack_cache_maxsize), and
#: gives back all of each but its end (advise_stack_range).
_CACHE_MOST: Final = 40 << 20
_IDLE_MOST: Final = 256 << 10
#: What the tcaches of one thread can hold at most: 7 chunks in each of 64 classes (16 from glibc 2.43: 536 KiB).
TCACHE_MOST: Final = 7 * sum(range(32, 1041, 16))


def booked(growth: int, known: Mapping[Account, int | None]) -> dict[Account, int | None]:
    """Return all accounts, those in `known` as given, the rest None, and `unexplained` so that the sum is `growth`."""
    accounts = {account: known.get(account) for account in Account}
    accounts[Account.UNEXPLAINED] = 0
    accounts[Account.UNEXPLAINED] = growth - sum(size or 0 for size in accounts.values())
    return accounts


def held(accounts: Mapping[Account, int | None]) -> int:
    """Return the growth that the program still holds, as far as it is known."""
    return sum(accounts[account] or 0 for account in HELD)


def retained(accounts: Mapping[Account, int | None]) -> int:
    """Return the growth that was freed and stayed resident, as far as it is known."""
    return sum(accounts[account] or 0 for account in RETAINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """One snapshot's resident bytes by what smaps shows. `other` are anonymous mappings outside [heap] and stacks.

    `mapped_size` is the address space that the program asked for, in bytes: other anonymous mappings, stacks and shared
    memory, without what it has given back lazily.
    """

    heap: int
    thread_heaps: int
    stack: int
    idle_stacks: int
    shmem: int
    file: int
    lazy_free: int
    other: tuple[Region, ...]
    mapped_size: int

    @property
    def other_resident(self) -> int:
        """Resident bytes of `other`, without what was freed lazily."""
        return sum(region.rss - region.lazy_free for region in self.other)


def _inside(starts: list[int], ends: list[int], region: Region) -> bool:
    i = bisect_right(starts, region.start) - 1
    return i >= 0 and region.end <= ends[i]


def _may_be_stack(region: Region, guard: Region | None) -> bool:
    """Whether the mapping has the shape of a thread's stack: one guard mapping below it, as pthread_create makes it."""
    return (
        guard is not None
        and guard.end == region.start
        and guard.size <= _GUARD_MOST
        and _STACK_LEAST <= region.size + guard.size <= _STACK_MOST
    )


def _guess_stacks(snapshot: Snapshot, pointers: list[int]) -> frozenset[int] | None:
    """Return the starts of the mappings that are taken for the stacks of threads that ran while they were asked.

    Those that look like a stack and have most resident, as many as there are such threads; None: all that look like one.
    """
    if snapshot.all_stacks_known or snapshot.unknown_stacks is None:
        return None
    found: list[tuple[int, int]] = []
    guard: Region | None = None
    for region in snapshot.mappings:
        below, guard = guard, None
        if region.perms.startswith("---") and not region.rss:
            guard = region
        elif (
            is_anonymous(region)
            and _may_be_stack(region, below)
            and bisect_right(pointers, region.end - 1) == bisect_right(pointers, region.start - 1)
        ):
            found.append((region.rss, region.start))
    found.sort(reverse=True)
    return frozenset(start for _, start in found[: snapshot.unknown_stacks])


def _append(regions: list[Region], region: Region) -> None:
    """Append `region`, joined to the last where they touch: madvise splits a mapping, and with it one malloc chunk."""
    if regions and regions[-1].end == region.start:
        last = regions[-1]
        regions[-1] = replace(last, end=region.end, rss=last.rss + region.rss, lazy_free=last.lazy_free + region.lazy_free)
    else:
        regions.append(region)


def classify(snapshot: Snapshot, *, heaps: Iterable[int] = (), bss: Iterable[tuple[int, int]] = ()) -> Classes:
    """Sort the mappings of `snapshot`. `heaps`: addresses of thread heaps (64 MiB-aligned); `bss`: ranges of .bss."""
    spans = sorted(set(heaps) | {address & -HEAP_MAX for top in snapshot.tops for address in (top.arena, top.top)})
    span_ends = [base + HEAP_MAX for base in spans]
    zeroed = sorted(bss)
    bss_starts, bss_ends = [start for start, _ in zeroed], [end for _, end in zeroed]
    pointers = sorted(snapshot.stack_pointers)
    guessed = _guess_stacks(snapshot, pointers)
    heap = thread_heaps = stack = idle = idle_size = shmem = file = lazy = mapped_size = 0
    other: list[Region] = []
    guard: Region | None = None
    for region in snapshot.mappings:
        below, guard = guard, None
        lazy += region.lazy_free
        resident = region.rss - region.lazy_free
        if region.path == "[heap]":
            heap += resident
        elif is_shared_memory(region):
            shmem += resident
            mapped_size += region.size - region.lazy_free
        elif not is_anonymous(region):
            file += resident
        elif _inside(spans, span_ends, region):
            thread_heaps += resident
        elif _inside(bss_starts, bss_ends, region):
            file += resident
        elif region.perms.startswith("---") and not region.rss:
            guard = region
        elif (
            region.path.startswith("[stack")
            or bisect_right(pointers, region.end - 1) > bisect_right(pointers, region.start - 1)
            or (_may_be_stack(region, below) and not snapshot.all_stacks_known and (guessed is None or region.start in guessed))
        ):
            stack += resident
            mapped_size += region.size - region.lazy_free
        elif _may_be_stack(region, below) and resident <= _IDLE_MOST and idle_size + region.size <= _CACHE_MOST:
            idle += resident
            idle_size += region.size
        else:
            _append(other, region)
            mapped_size += region.size - region.lazy_free
    shmem -= snapshot.own
    mapped_size -= snapshot.own
    return Classes(
        heap=heap, thread_heaps=thread_heaps, stack=stack, idle_stacks=idle, shmem=shmem, file=file, lazy_free=lazy,
        other=tuple(other), mapped_size=mapped_size,
    )  # fmt: skip


def _malloc_in_use(snapshot: Snapshot) -> int:
    """Return what malloc has handed out of its heaps, in bytes, without the calling thread's tcache."""
    stats = snapshot.malloc
    return stats.uordblks - (stats.tcache or 0) if stats else 0


def _arena_bytes(snapshot: Snapshot) -> int:
    return snapshot.pools.arenas * snapshot.pools.arena_size if snapshot.pools else 0


def mapped_growth(before: Snapshot, after: Snapshot, old: Classes, new: Classes) -> int:
    """Return how much more address space is mapped outside every known heap, in bytes: exact, resident or not."""
    chunks = (after.malloc.hblkhd - before.malloc.hblkhd) if before.malloc and after.malloc else 0
    return new.mapped_size - old.mapped_size - chunks - (_arena_bytes(after) - _arena_bytes(before))


def address_space_growth(before: Snapshot, after: Snapshot) -> int:
    """Return how much more address space there is outside every known heap, in bytes, from counters alone.

    Reservations of thread arenas (64 MiB each) are in it: it is a reason to look, never evidence.
    """
    return (after.vm_size - after.own - _claimed(after)) - (before.vm_size - before.own - _claimed(before))


def _claimed(snapshot: Snapshot) -> int:
    return _arena_bytes(snapshot) + (snapshot.malloc.arena + snapshot.malloc.hblkhd if snapshot.malloc else 0)


def allocator_growth(before: Snapshot, after: Snapshot) -> int:
    """Return how much more the allocators have handed out, by their own counters, in bytes."""
    total = 0
    if before.malloc and after.malloc:
        total += _malloc_in_use(after) - _malloc_in_use(before) + after.malloc.hblkhd - before.malloc.hblkhd
    if before.pools and after.pools:
        total += after.pools.allocated - before.pools.allocated
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
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


def _standing(before: Snapshot, old: Classes, new: Classes, census: Census) -> _Standing:
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
        # arenas first: at most the one in use had pools that nobody had touched, a chunk may have been all untouched
        in_arenas = rss if only_arenas else min(rss, now[Kind.ARENA])
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
    return _Standing(arenas=arenas + to_arenas, chunks=chunks + to_chunks, mapped=mapped + lost_rss - to_chunks - to_arenas)


def _covers(inside: list[Piece], region: Region, new: Classes) -> bool:
    """Whether everything resident in the mapping that now holds `region` is in the pieces: nothing else was there."""
    now = sum(each.rss - each.lazy_free for each in new.other if each.start <= region.start and region.end <= each.end)
    return bool(inside) and now == sum(each.resident for each in inside)


def totals(snapshot: Snapshot, census: Census) -> dict[Account, int | None]:
    """Return what stands on each account at one instant, page-exact; they sum to RSS. None: that cannot be told."""
    spans = [heap.start & -HEAP_MAX for heap in census.heaps if not heap.main]
    classes = classify(snapshot, heaps=spans, bss=census.bss)
    arenas = census.pools.resident if census.pools else 0
    known: dict[Account, int | None] = {
        Account.STACK: classes.stack,
        Account.SHMEM: classes.shmem,
        Account.FILE: classes.file,
        Account.LAZY_FREE: classes.lazy_free,
        Account.MAPPED: classes.other_resident - arenas - census.chunk_resident - census.beyond,
    }
    if census.pools and snapshot.pools:
        known[Account.PYTHON_LIVE] = snapshot.pools.allocated
        known[Account.POOL_FREE] = arenas - snapshot.pools.allocated
    elif census.pools:
        known[Account.PYTHON_LIVE] = census.pools.live
        known[Account.POOL_FREE] = arenas - census.pools.live
    if census.heaps:
        known[Account.MALLOC_LIVE] = sum(heap.live for heap in census.heaps) + census.chunk_resident
        known[Account.TRIMMABLE] = sum(heap.trimmable for heap in census.heaps)
        known[Account.PINNED] = sum(heap.pinned for heap in census.heaps)
        known[Account.ARENA_TOP] = sum(heap.arena_top for heap in census.heaps)
        known[Account.TCACHE] = sum(heap.tcache for heap in census.heaps)
    return booked(snapshot.rss, known)


def by_census(
    before: Snapshot, after: Snapshot, census: Census, then: Census | None = None, *, trimmed: bool = True
) -> dict[Account, int | None]:
    """Return the accounts of the growth from `before` to `after`, of which `census` is the page-exact view.

    `then`: a census at the baseline, if one was taken; else what stood before is derived. `trimmed`: whether the heaps
    were trimmed for the baseline; if not, nobody knows how much of them was trimmable then, and FREE_HEAP carries both
    what is trimmable and what is pinned. Accounts that no allocator can tell of are None; their bytes are unexplained.
    """
    now = totals(after, census)
    if then is not None:
        stood = totals(before, then)
        _add_own(stood, before.malloc, then.malloc)
        if trimmed:
            stood[Account.TRIMMABLE] = 0  # the baseline trim came after that census
    else:
        stood = _stood(before, after, census, now)
        pinned = now[Account.PINNED]
        if not trimmed and pinned is not None and stood[Account.PINNED] is not None:
            now[Account.FREE_HEAP] = pinned + (now[Account.TRIMMABLE] or 0)
            stood[Account.FREE_HEAP] = stood[Account.PINNED]
            now[Account.PINNED] = now[Account.TRIMMABLE] = None
    return booked(
        after.rss - before.rss,
        {
            account: None if size is None or stood[account] is None else size - (stood[account] or 0)
            for account, size in now.items()
        },
    )


def _add_own(stood: dict[Account, int | None], now: MallocStats | None, then: MallocStats | None) -> None:
    """Add what taking the census itself has left in malloc by the time of the baseline's counters."""
    if now is None or then is None or now.tcache is None or then.tcache is None or stood[Account.MALLOC_LIVE] is None:
        return
    cached = now.tcache - then.tcache
    live = now.uordblks + now.hblkhd - then.uordblks - then.hblkhd - cached
    for account, size in ((Account.MALLOC_LIVE, live), (Account.TCACHE, cached), (Account.PINNED, -live - cached)):
        stood[account] = (stood[account] or 0) + size


def _stood(before: Snapshot, after: Snapshot, census: Census, now: Mapping[Account, int | None]) -> dict[Account, int | None]:
    """Return what stood on each account before the body, where no census was taken then.

    The heaps had just been trimmed: nothing was trimmable (docs/design.md, "What stood before").
    """
    spans = [heap.start & -HEAP_MAX for heap in census.heaps if not heap.main]
    old, new = classify(before, heaps=spans, bss=census.bss), classify(after, heaps=spans, bss=census.bss)
    other = _standing(before, old, new, census)
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
    grown = _malloc_in_use(after) - _malloc_in_use(before) - sum(heap.new_live for heap in census.heaps)
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
    something (the bins hold more), or where it put new live blocks: at worst one of 32 bytes on each page. Without this
    bound, live memory that is first written by the body would read as freed in a process that has much pinned memory.
    """
    if before.malloc is None or after.malloc is None:
        return 0
    freed = max(0, after.malloc.fordblks - before.malloc.fordblks)
    return max(0, pinned - freed - 128 * max(0, _malloc_in_use(after) - _malloc_in_use(before)))


def _holds_one(heap: int, arenas: list[int]) -> bool:
    i = bisect_right(arenas, heap)
    return i < len(arenas) and arenas[i] < heap + HEAP_MAX


def by_counters(before: Snapshot, after: Snapshot) -> dict[Account, int | None]:
    """Return the accounts of the growth as the counters alone tell it: what passed, or could not be walked.

    Live memory is taken as resident here; FREE_HEAP carries what else the heaps grew by.
    """
    known: dict[Account, int | None] = {}
    malloc_live = heap_live = chunks = python_live = 0
    if before.malloc and after.malloc:
        chunks = after.malloc.hblkhd - before.malloc.hblkhd
        heap_live = _malloc_in_use(after) - _malloc_in_use(before)
        malloc_live = heap_live + chunks
        known[Account.MALLOC_LIVE] = malloc_live
        known[Account.FREE_HEAP] = -heap_live
    if before.pools and after.pools:
        python_live = after.pools.allocated - before.pools.allocated
        known[Account.PYTHON_LIVE] = python_live
        known[Account.POOL_FREE] = -python_live
    if not before.mappings or not after.mappings:
        return booked(after.rss - before.rss, known)
    old, new = classify(before), classify(after)
    known[Account.STACK] = new.stack - old.stack
    known[Account.SHMEM] = new.shmem - old.shmem
    known[Account.FILE] = new.file - old.file
    known[Account.LAZY_FREE] = new.lazy_free - old.lazy_free
    if Account.FREE_HEAP in known:
        known[Account.FREE_HEAP] = new.heap + new.thread_heaps - old.heap - old.thread_heaps - heap_live
    # other anonymous memory: mmapped chunks, arenas, and what the program mapped itself
    rest = new.other_resident - old.other_resident - chunks
    mapped = mapped_growth(before, after, old, new)
    if Account.POOL_FREE in known:
        beyond = rest - (_arena_bytes(after) - _arena_bytes(before))
        mapped = max(0, min(beyond, mapped)) if mapped > 0 else min(0, max(beyond, mapped))
        known[Account.POOL_FREE] = rest - mapped - python_live
    else:
        mapped = rest
    known[Account.MAPPED] = mapped
    return booked(after.rss - before.rss, known)


def live_slack(before: Snapshot, after: Snapshot, accounts: Mapping[Account, int | None]) -> int:
    """Return how many of the bytes that `by_counters` calls held may be live without being resident.

    Resident live memory of the heaps is at least what is resident of them less what is free, wherever that lies.
    """
    if not (before.malloc and after.malloc):
        return 0
    old, new = classify(before), classify(after)
    sure = max(0, new.heap + new.thread_heaps - after.malloc.fordblks)
    most_then = min(_malloc_in_use(before), old.heap + old.thread_heaps)
    least = max(0, sure - most_then)
    return max(0, (accounts[Account.MALLOC_LIVE] or 0) - least)


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
