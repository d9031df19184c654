"""Close the books: book every byte of RSS growth on exactly one account.

Pure. `booked` does the bookkeeping identity: whatever no account covers is `unexplained`, so the accounts sum to the
growth by construction. `by_census` divides the growth where a census was taken after the body; what stood before is
derived from counters and from what the census shows of the same addresses (docs/design.md, "What stood before").
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_rssguard.arenas import HEAP_MAX
from pytest_rssguard.classes import classify
from pytest_rssguard.growth import arena_bytes, malloc_in_use, mapped_growth
from pytest_rssguard.model import (
    HELD,
    RETAINED,
    Account,
    Census,
    Snapshot,
)
from pytest_rssguard.standing import add_own, derive_stood


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
        add_own(stood, before.malloc, then.malloc)
        if trimmed:
            stood[Account.TRIMMABLE] = 0  # the baseline trim came after that census
    else:
        stood = derive_stood(before, after, census, now)
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


def by_counters(before: Snapshot, after: Snapshot) -> dict[Account, int | None]:
    """Return the accounts of the growth as the counters alone tell it: what passed, or could not be walked.

    Live memory is taken as resident here; FREE_HEAP carries what else the heaps grew by.
    """
    known: dict[Account, int | None] = {}
    malloc_live = heap_live = chunks = python_live = 0
    if before.malloc and after.malloc:
        chunks = after.malloc.hblkhd - before.malloc.hblkhd
        heap_live = malloc_in_use(after) - malloc_in_use(before)
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
        beyond = rest - (arena_bytes(after) - arena_bytes(before))
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
    most_then = min(malloc_in_use(before), old.heap + old.thread_heaps)
    least = max(0, sure - most_then)
    return max(0, (accounts[Account.MALLOC_LIVE] or 0) - least)
