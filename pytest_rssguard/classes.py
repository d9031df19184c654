"""Sort the mappings of one reading into classes: heap, thread heaps, stacks, shared memory, files, and the rest. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from pytest_rssguard.arenas import HEAP_MAX
from pytest_rssguard.model import Region, Snapshot
from pytest_rssguard.regions import is_anonymous, is_shared_memory

#: pthread_create's guard is one page by default; its stack is RLIMIT_STACK (8 MiB), or what the program asks for.
_GUARD_MOST: Final = 1 << 20
_STACK_LEAST: Final = 1 << 20
_STACK_MOST: Final = 1 << 30
#: glibc keeps stacks of ended threads up to 40 MiB of address space (nptl/allocatestack.c, stack_cache_maxsize), and
#: gives back all of each but its end (advise_stack_range).
_CACHE_MOST: Final = 40 << 20
_IDLE_MOST: Final = 256 << 10


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
