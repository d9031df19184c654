"""How much more there is between two readings, by counters and sizes alone: exact, resident or not. Pure."""

from __future__ import annotations

from pytest_rssguard.classes import Classes
from pytest_rssguard.model import Snapshot


def malloc_in_use(snapshot: Snapshot) -> int:
    """Return what malloc has handed out of its heaps, in bytes, without the calling thread's tcache."""
    stats = snapshot.malloc
    return stats.uordblks - (stats.tcache or 0) if stats else 0


def arena_bytes(snapshot: Snapshot) -> int:
    """Return the address space of pymalloc's arenas, in bytes."""
    return snapshot.pools.arenas * snapshot.pools.arena_size if snapshot.pools else 0


def mapped_growth(before: Snapshot, after: Snapshot, old: Classes, new: Classes) -> int:
    """Return how much more address space is mapped outside every known heap, in bytes: exact, resident or not."""
    chunks = (after.malloc.hblkhd - before.malloc.hblkhd) if before.malloc and after.malloc else 0
    return new.mapped_size - old.mapped_size - chunks - (arena_bytes(after) - arena_bytes(before))


def address_space_growth(before: Snapshot, after: Snapshot) -> int:
    """Return how much more address space there is outside every known heap, in bytes, from counters alone.

    Reservations of thread arenas (64 MiB each) are in it: it is a reason to look, never evidence.
    """
    return (after.vm_size - after.own - _claimed(after)) - (before.vm_size - before.own - _claimed(before))


def _claimed(snapshot: Snapshot) -> int:
    return arena_bytes(snapshot) + (snapshot.malloc.arena + snapshot.malloc.hblkhd if snapshot.malloc else 0)


def allocator_growth(before: Snapshot, after: Snapshot) -> int:
    """Return how much more the allocators have handed out, by their own counters, in bytes."""
    total = 0
    if before.malloc and after.malloc:
        total += malloc_in_use(after) - malloc_in_use(before) + after.malloc.hblkhd - before.malloc.hblkhd
    if before.pools and after.pools:
        total += after.pools.allocated - before.pools.allocated
    return total
