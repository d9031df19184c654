from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.arenas import HEAP_MAX
from pytest_rssguard.classes import classify
from pytest_rssguard.growth import address_space_growth, allocator_growth, mapped_growth
from pytest_rssguard.ledger import booked, by_census, by_counters, held, live_slack, retained, totals
from pytest_rssguard.model import (
    DIVIDED_BY_CENSUS,
    HELD,
    RETAINED,
    Account,
    ArenaTop,
    Census,
    Heap,
    Kind,
    MallocStats,
    Piece,
    Pools,
    PoolStats,
    Region,
    Snapshot,
)
from pytest_rssguard.standing import TCACHE_MOST
from tests.builders import KIB, MIB, PAGE, census, malloc_stats, pool_stats, region, snapshot

HEAP = 0x5555_5555_0000
ARENA = 0x7F00_0000_0000  # of a thread: 64 MiB-aligned
MMAP = 0x7F80_0000_0000
A = Account
#: A mapping that is there and holds nothing: a reading without any mapping is one that was not decoded.
NOTHING = region(0x40_0000, PAGE, path="/usr/bin/python", perms="r-xp", rss=0)


def known(accounts: Mapping[Account, int | None]) -> dict[str, int]:
    """Return the accounts that are neither zero nor unknown, by name."""
    return {account.value: size for account, size in accounts.items() if size}


def total(accounts: Mapping[Account, int | None]) -> int:
    return sum(size or 0 for size in accounts.values())


def heap_region(size: int, rss: int | None = None) -> Region:
    return region(HEAP, size, path="[heap]", rss=rss)


# --- booking ----------------------------------------------------------------------------------------------------


def test_what_no_account_covers_is_unexplained() -> None:
    found = booked(100, {A.MAPPED: 30, A.FILE: -5, A.STACK: None})
    assert known(found) == {"mapped": 30, "file": -5, "unexplained": 75}
    assert found[A.STACK] is found[A.PINNED] is None
    assert list(found) == list(Account)


def test_an_unexplained_rest_is_always_worked_out_anew() -> None:
    assert booked(10, {A.UNEXPLAINED: 99})[A.UNEXPLAINED] == 10


def test_held_and_retained_leave_out_files_and_the_unexplained() -> None:
    accounts = booked(1 << 20, {account: 1 << number for number, account in enumerate(Account)})
    assert held(accounts) == 0b11111
    assert retained(accounts) == 0b111111100000
    assert {*HELD, *RETAINED} == set(Account) - {A.FILE, A.UNEXPLAINED}


def test_an_unknown_account_holds_nothing() -> None:
    nothing: dict[Account, int | None] = dict.fromkeys(Account)
    assert (held(nothing), retained(nothing)) == (0, 0)


# --- classes ----------------------------------------------------------------------------------------------------


def test_mappings_are_sorted_into_classes() -> None:
    lib = region(MMAP, 2 * MIB, path="/usr/lib/libx.so", perms="r-xp")
    found = classify(
        snapshot(
            heap_region(MIB, rss=512 * KIB),
            region(ARENA, MIB, rss=200 * KIB),
            lib,
            region(MMAP + 2 * MIB, 64 * KIB),
            region(MMAP + 4 * MIB, MIB, perms="rw-s", path="/memfd:x (deleted)"),
            region(MMAP + 8 * MIB, 3 * MIB, rss=2 * MIB, lazy_free=MIB),
            region(0x7FFD_0000_0000, 132 * KIB, path="[stack]", rss=40 * KIB),
        ),
        heaps=[ARENA],
        bss=[(MMAP + 2 * MIB, MMAP + 2 * MIB + 64 * KIB)],
    )
    assert (found.heap, found.thread_heaps) == (512 * KIB, 200 * KIB)
    assert found.file == 2 * MIB + 64 * KIB
    assert (found.shmem, found.stack, found.lazy_free) == (MIB, 40 * KIB, MIB)
    assert [each.start for each in found.other] == [MMAP + 8 * MIB]
    assert found.other_resident == MIB
    assert found.mapped_size == MIB + 3 * MIB - MIB + 132 * KIB


def test_ranges_of_bss_may_come_from_any_iterable() -> None:
    ranges = [(MMAP, MMAP + PAGE)]
    assert classify(snapshot(region(MMAP, PAGE)), bss=iter(ranges)).file == PAGE


def test_a_thread_heap_is_known_by_the_tops_of_the_reading() -> None:
    top = ArenaTop(arena=ARENA + 0x30, top=ARENA + HEAP_MAX + 0x1000, size=PAGE)
    found = classify(snapshot(region(ARENA, MIB), region(ARENA + HEAP_MAX, MIB), tops=(top,)))
    assert (found.thread_heaps, found.other) == (2 * MIB, ())


def test_a_mapping_with_a_stack_pointer_in_it_is_a_stack() -> None:
    found = classify(snapshot(region(MMAP, 8 * MIB, rss=MIB), stack_pointers=(MMAP + 8 * MIB - 64,)))
    assert (found.stack, found.mapped_size, found.other) == (MIB, 8 * MIB, ())


def guarded(start: int, *, size: int = 8 * MIB, guard: int = PAGE, rss: int = 16 * KIB) -> tuple[Region, Region]:
    return region(start, guard, perms="---p", rss=0), region(start + guard, size - guard, rss=rss)


def test_a_stack_shape_without_a_thread_is_a_cached_stack_of_an_ended_one() -> None:
    found = classify(snapshot(*guarded(MMAP)))
    assert (found.idle_stacks, found.stack, found.other, found.mapped_size) == (16 * KIB, 0, (), 0)


def test_where_a_threads_stack_pointer_is_unknown_a_stack_shape_is_a_stack() -> None:
    found = classify(snapshot(*guarded(MMAP), all_stacks_known=False))
    assert (found.idle_stacks, found.stack) == (0, 16 * KIB)


def test_as_many_stack_shapes_as_threads_ran_are_stacks_the_most_resident_first() -> None:
    small, large = guarded(MMAP), guarded(MMAP + 64 * MIB, rss=MIB)
    asked = guarded(MMAP + 128 * MIB)
    pointer = asked[1].end - 64
    found = classify(snapshot(*small, *large, *asked, stack_pointers=(pointer,), all_stacks_known=False, unknown_stacks=1))
    assert (found.stack, found.idle_stacks) == (MIB + 16 * KIB, 16 * KIB)


@pytest.mark.parametrize(
    "mappings",
    [
        guarded(MMAP, rss=MIB),
        guarded(MMAP, guard=2 * MIB),
        guarded(MMAP, size=MIB - PAGE),
        guarded(MMAP, size=(1 << 30) + PAGE),
        (region(MMAP - PAGE, PAGE, perms="---p", rss=0), region(MMAP + PAGE, 8 * MIB, rss=PAGE)),
    ],
)
def test_what_has_not_the_shape_of_a_cached_stack_is_mapped(mappings: tuple[Region, Region]) -> None:
    assert classify(snapshot(*mappings)).other == mappings[1:]


def test_no_more_stacks_are_cached_than_glibc_caches() -> None:
    stacks = [part for number in range(6) for part in guarded(MMAP + number * 16 * MIB)]
    found = classify(snapshot(*stacks))
    assert (found.idle_stacks, len(found.other)) == (5 * 16 * KIB, 1)


def test_a_guard_that_is_resident_is_no_guard() -> None:
    found = classify(snapshot(region(MMAP, PAGE, perms="---p"), region(MMAP + PAGE, 8 * MIB, rss=PAGE)))
    assert (found.idle_stacks, found.other_resident) == (0, 2 * PAGE)


def test_shared_memory_that_the_guard_itself_made_is_left_out() -> None:
    found = classify(snapshot(region(MMAP, MIB, perms="rw-s", path="/dev/zero (deleted)"), own=256 * KIB))
    assert (found.shmem, found.mapped_size) == (MIB - 256 * KIB, MIB - 256 * KIB)


# --- growth by counters -----------------------------------------------------------------------------------------


def test_allocator_growth_is_what_was_handed_out_less_what_a_tcache_keeps() -> None:
    before = snapshot(malloc=malloc_stats(uordblks=100, tcache=10, hblkhd=50), pools=pool_stats(allocated=7))
    after = snapshot(malloc=malloc_stats(uordblks=150, tcache=20, hblkhd=80), pools=pool_stats(allocated=10))
    assert allocator_growth(before, after) == 40 + 30 + 3


def test_allocator_growth_without_a_counter_counts_the_others() -> None:
    malloc = malloc_stats(uordblks=100)
    pools = pool_stats(allocated=5)
    assert allocator_growth(snapshot(malloc=malloc), snapshot()) == 0
    assert allocator_growth(snapshot(pools=pools), snapshot(pools=replace(pools, allocated=9))) == 4


def test_mapped_growth_leaves_out_what_the_allocators_mapped() -> None:
    before = snapshot(malloc=malloc_stats(), pools=pool_stats())
    after = snapshot(region(MMAP, 6 * MIB), malloc=malloc_stats(hblkhd=2 * MIB), pools=pool_stats(arenas=1))
    assert mapped_growth(before, after, classify(before), classify(after)) == 3 * MIB
    bare_before, bare_after = replace(before, malloc=None, pools=None), replace(after, malloc=None, pools=None)
    assert mapped_growth(bare_before, bare_after, classify(before), classify(after)) == 6 * MIB


def test_address_space_growth_leaves_out_heaps_arenas_and_our_own() -> None:
    before = snapshot(vm_size=100 * MIB)
    after = snapshot(vm_size=120 * MIB, own=MIB, malloc=malloc_stats(arena=4 * MIB, hblkhd=2 * MIB), pools=pool_stats(arenas=3))
    assert address_space_growth(before, after) == (20 - 1 - 6 - 3) * MIB


def test_the_counters_book_a_leak_of_malloc_as_live() -> None:
    before = snapshot(heap_region(MIB), malloc=malloc_stats(uordblks=MIB), pools=pool_stats())
    after = snapshot(heap_region(9 * MIB), malloc=malloc_stats(uordblks=9 * MIB), pools=pool_stats())
    found = by_counters(before, after)
    assert known(found) == {"malloc_live": 8 * MIB}
    assert {account for account, size in found.items() if size is None} == set(DIVIDED_BY_CENSUS)


def test_the_counters_book_freed_heap_undivided() -> None:
    before = snapshot(heap_region(MIB), malloc=malloc_stats(uordblks=MIB))
    after = snapshot(heap_region(9 * MIB), malloc=malloc_stats(uordblks=2 * MIB, fordblks=7 * MIB))
    assert known(by_counters(before, after)) == {"malloc_live": MIB, "free_heap": 7 * MIB}


def test_the_counters_tell_arenas_chunks_and_mappings_apart() -> None:
    before = snapshot(NOTHING, malloc=malloc_stats(), pools=pool_stats())
    after = snapshot(
        NOTHING,
        region(MMAP, 10 * MIB),
        malloc=malloc_stats(hblkhd=4 * MIB),
        pools=pool_stats(arenas=3, allocated=MIB),
    )
    assert known(by_counters(before, after)) == {
        "python_live": MIB,
        "pool_free": 2 * MIB,
        "malloc_live": 4 * MIB,
        "mapped": 3 * MIB,
    }


def test_a_mapping_that_went_is_negative() -> None:
    before = snapshot(region(MMAP, 5 * MIB), malloc=malloc_stats(), pools=pool_stats())
    after = snapshot(region(MMAP, 2 * MIB), malloc=malloc_stats(), pools=pool_stats())
    assert known(by_counters(before, after)) == {"mapped": -3 * MIB}


def test_without_pymalloc_all_other_anonymous_memory_is_mapped() -> None:
    before = snapshot(NOTHING, malloc=malloc_stats())
    found = by_counters(before, snapshot(NOTHING, region(MMAP, 5 * MIB), malloc=malloc_stats()))
    assert known(found) == {"mapped": 5 * MIB}
    assert found[A.PYTHON_LIVE] is found[A.POOL_FREE] is None


def test_without_any_allocators_counters_the_mappings_still_tell() -> None:
    after = snapshot(heap_region(MIB), region(MMAP, 2 * MIB), region(MMAP + 4 * MIB, MIB, path="/lib.so"))
    found = by_counters(snapshot(region(MMAP, PAGE)), after)
    assert known(found) == {"mapped": 2 * MIB - PAGE, "file": MIB, "unexplained": MIB}


def test_without_mappings_the_counters_alone_are_booked() -> None:
    before = Snapshot(rss=0, vm_size=0, malloc=malloc_stats(), pools=pool_stats())
    after = Snapshot(rss=100, vm_size=0, malloc=malloc_stats(uordblks=60), pools=pool_stats(allocated=30))
    found = by_counters(before, after)
    assert known(found) == {"python_live": 30, "malloc_live": 60, "free_heap": -60, "pool_free": -30, "unexplained": 100}
    assert found[A.MAPPED] is None
    assert known(by_counters(replace(before, malloc=None, pools=None), after)) == {"unexplained": 100}


def test_stacks_shared_memory_files_and_lazily_freed_pages_are_booked_by_mapping() -> None:
    before = snapshot(region(0x7FFD_0000_0000, MIB, path="[stack]", rss=PAGE))
    after = snapshot(
        region(MMAP, MIB, perms="rw-s", path="/dev/shm/x"),  # noqa: S108 - a name, not a file
        region(MMAP + 2 * MIB, MIB, path="/lib.so"),
        region(MMAP + 4 * MIB, MIB, lazy_free=MIB),
        region(0x7FFD_0000_0000, MIB, path="[stack]", rss=9 * PAGE),
    )
    assert known(by_counters(before, after)) == {"stack": 8 * PAGE, "shmem": MIB, "lazy_free": MIB, "file": MIB}


def test_live_memory_is_surely_resident_only_beyond_what_is_free() -> None:
    before = snapshot(heap_region(MIB), malloc=malloc_stats(uordblks=MIB))
    after = snapshot(heap_region(9 * MIB), malloc=malloc_stats(uordblks=9 * MIB, fordblks=3 * MIB))
    assert live_slack(before, after, by_counters(before, after)) == 3 * MIB
    full = replace(after, malloc=malloc_stats(uordblks=9 * MIB))
    assert live_slack(before, full, by_counters(before, full)) == 0


def test_without_malloc_counters_there_is_no_slack() -> None:
    assert live_slack(snapshot(), snapshot(malloc=malloc_stats()), booked(0, {})) == 0


# --- growth by census -------------------------------------------------------------------------------------------


def main_heap(size: int, **found: Any) -> Heap:  # noqa: ANN401 - fields of Heap
    return Heap(start=HEAP, end=HEAP + size, main=True, **found)


def test_a_census_divides_what_stands() -> None:
    found = totals(
        snapshot(heap_region(10 * MIB), region(MMAP, 5 * MIB), region(MMAP + 8 * MIB, MIB, path="/lib.so")),
        census(
            main_heap(10 * MIB, live=6 * MIB, trimmable=2 * MIB, pinned=MIB, tcache=MIB - PAGE, arena_top=0, metadata=PAGE),
            pools=Pools(resident=2 * MIB, live=MIB),
            chunk_resident=MIB,
        ),
    )
    assert known(found) == {
        "python_live": MIB,
        "malloc_live": 7 * MIB,
        "mapped": 2 * MIB,
        "trimmable": 2 * MIB,
        "pinned": MIB,
        "pool_free": MIB,
        "tcache": MIB - PAGE,
        "file": MIB,
        "unexplained": PAGE,
    }


def test_pymallocs_own_count_of_live_bytes_is_taken_where_there_is_one() -> None:
    found = totals(snapshot(region(MMAP, MIB), pools=pool_stats(allocated=300)), census(pools=Pools(resident=MIB, live=320)))
    assert (found[A.PYTHON_LIVE], found[A.POOL_FREE]) == (300, MIB - 300)


def test_a_census_without_heaps_or_pools_leaves_their_accounts_unknown() -> None:
    found = totals(snapshot(region(MMAP, MIB)), census())
    assert known(found) == {"mapped": MIB}
    assert found[A.MALLOC_LIVE] is found[A.PYTHON_LIVE] is found[A.PINNED] is found[A.FREE_HEAP] is None


def test_with_a_census_at_both_ends_the_growth_is_their_difference() -> None:
    before = snapshot(heap_region(4 * MIB, rss=3 * MIB))
    after = snapshot(heap_region(9 * MIB))
    found = by_census(
        before,
        after,
        census(main_heap(9 * MIB, live=5 * MIB, trimmable=3 * MIB, pinned=MIB)),
        census(main_heap(4 * MIB, live=2 * MIB, pinned=MIB, trimmable=0)),
    )
    assert known(found) == {"malloc_live": 3 * MIB, "trimmable": 3 * MIB}


def test_what_was_trimmable_before_the_baseline_trim_had_gone_by_then() -> None:
    before, after = snapshot(heap_region(4 * MIB)), snapshot(heap_region(4 * MIB))
    then = census(main_heap(4 * MIB, live=2 * MIB, trimmable=2 * MIB))
    now = census(main_heap(4 * MIB, live=3 * MIB, trimmable=MIB))
    assert known(by_census(before, after, now, then)) == {"malloc_live": MIB, "trimmable": MIB, "unexplained": -2 * MIB}


def test_without_a_census_at_the_baseline_live_memory_then_is_what_malloc_counted() -> None:
    before = snapshot(heap_region(5 * MIB), malloc=malloc_stats(uordblks=4 * MIB, fordblks=MIB))
    after = snapshot(heap_region(12 * MIB), malloc=malloc_stats(uordblks=6 * MIB, fordblks=6 * MIB))
    found = by_census(before, after, census(main_heap(12 * MIB, live=6 * MIB, trimmable=4 * MIB, pinned=2 * MIB)))
    assert known(found) == {"malloc_live": 2 * MIB, "trimmable": 4 * MIB, "pinned": MIB}


def test_live_memory_that_nobody_had_touched_before_was_not_resident() -> None:
    before = snapshot(heap_region(9 * MIB, rss=4 * MIB), malloc=malloc_stats(uordblks=9 * MIB))
    after = snapshot(heap_region(9 * MIB), malloc=malloc_stats(uordblks=9 * MIB))
    assert known(by_census(before, after, census(main_heap(9 * MIB, live=9 * MIB)))) == {"malloc_live": 5 * MIB}


def test_memory_untouched_still_and_not_allocated_meanwhile_was_untouched_then() -> None:
    before = snapshot(heap_region(9 * MIB, rss=4 * MIB), malloc=malloc_stats(uordblks=8 * MIB, fordblks=MIB))
    after = snapshot(heap_region(9 * MIB, rss=4 * MIB), malloc=malloc_stats(uordblks=8 * MIB, fordblks=MIB))
    found = by_census(before, after, census(main_heap(9 * MIB, live=3 * MIB, untouched=5 * MIB, pinned=MIB)))
    assert known(found) == {}


def test_a_tcache_that_is_filled_before_each_reading_has_not_grown() -> None:
    cached = TCACHE_MOST
    before = snapshot(heap_region(5 * MIB), malloc=malloc_stats(uordblks=5 * MIB, tcache=None))
    after = snapshot(heap_region(6 * MIB), malloc=malloc_stats(uordblks=6 * MIB, tcache=None))
    found = by_census(before, after, census(main_heap(6 * MIB, live=6 * MIB - cached, tcache=cached)))
    assert known(found) == {"malloc_live": MIB}


def test_the_tcaches_of_other_threads_are_taken_to_have_been_as_they_are_but_no_larger_than_they_can_be() -> None:
    cached = TCACHE_MOST + 1000
    before = snapshot(heap_region(5 * MIB), malloc=malloc_stats(uordblks=5 * MIB, tcache=0), threads=2)
    after = snapshot(heap_region(5 * MIB), malloc=malloc_stats(uordblks=5 * MIB, tcache=0), threads=2)
    found = by_census(before, after, census(main_heap(5 * MIB, live=5 * MIB - cached, tcache=cached)))
    assert known(found) == {"malloc_live": -1000, "tcache": 1000}


def test_the_top_of_a_thread_arena_that_has_not_moved_is_as_resident_as_it_is_now() -> None:
    top = ArenaTop(arena=ARENA + 0x30, top=ARENA + MIB, size=MIB)
    stats = malloc_stats(uordblks=2 * MIB, fordblks=MIB)
    before = snapshot(heap_region(MIB), region(ARENA, 2 * MIB), malloc=stats, tops=(top,))
    after = snapshot(heap_region(MIB), region(ARENA, 2 * MIB), malloc=stats, tops=(top,))
    heaps = (
        main_heap(MIB, live=MIB),
        Heap(start=ARENA, end=ARENA + 2 * MIB, main=False, live=MIB - 2224, arena_top=MIB, metadata=2224),
    )
    assert known(by_census(before, after, census(*heaps))) == {}


def test_a_top_that_moved_held_at_least_what_lay_beyond_its_start() -> None:
    then = ArenaTop(arena=ARENA + 0x30, top=ARENA + 64 * KIB, size=2 * MIB - 64 * KIB)
    now = ArenaTop(arena=ARENA + 0x30, top=ARENA + MIB, size=MIB)
    before = snapshot(
        heap_region(MIB), region(ARENA, 2 * MIB), malloc=malloc_stats(uordblks=MIB + 64 * KIB, fordblks=then.size), tops=(then,)
    )
    after = snapshot(heap_region(MIB), region(ARENA, 2 * MIB), malloc=malloc_stats(uordblks=2 * MIB, fordblks=MIB), tops=(now,))
    heaps = (
        main_heap(MIB, live=MIB),
        Heap(start=ARENA + 2048, end=ARENA + 2 * MIB, main=False, live=MIB, arena_top=MIB),
    )
    found = by_census(before, after, census(*heaps))
    assert known(found) == {"malloc_live": MIB - 64 * KIB, "arena_top": 64 * KIB - MIB}


def test_the_top_of_an_arena_that_is_gone_or_new_is_booked_by_what_was_resident() -> None:
    then = ArenaTop(arena=ARENA + 0x30, top=ARENA + 64 * KIB, size=MIB)
    before = snapshot(region(ARENA, MIB), malloc=malloc_stats(uordblks=64 * KIB), tops=(then,))
    after = snapshot(region(ARENA, MIB), malloc=malloc_stats(uordblks=64 * KIB))
    heap = Heap(start=ARENA, end=ARENA + MIB, main=False, live=64 * KIB, arena_top=MIB - 64 * KIB)
    assert known(by_census(before, after, census(heap))) == {}


def test_a_top_is_never_taken_to_have_held_more_than_caches_left_of_what_was_resident() -> None:
    then = ArenaTop(arena=ARENA + 0x30, top=ARENA + 64 * KIB, size=2 * MIB - 64 * KIB)
    stats = malloc_stats(uordblks=100 * KIB, fordblks=then.size, tcache=100 * KIB)
    before = snapshot(region(ARENA, 2 * MIB), malloc=stats, tops=(then,))
    after = snapshot(region(ARENA, 2 * MIB), malloc=stats)
    now = Heap(start=ARENA, end=ARENA + 2 * MIB, main=False, arena_top=2 * MIB - 100 * KIB, tcache=100 * KIB)
    assert known(by_census(before, after, census(now))) == {}


def test_pymallocs_arenas_and_mmapped_chunks_that_stay_are_taken_to_have_been_what_they_are() -> None:
    stats, pools = malloc_stats(uordblks=0, hblkhd=2 * MIB), pool_stats(arenas=1, allocated=MIB // 2)
    mappings = (region(MMAP, MIB), region(MMAP + 4 * MIB, 2 * MIB), region(MMAP + 8 * MIB, 3 * MIB))
    before = snapshot(*mappings, malloc=stats, pools=pools)
    after = snapshot(*mappings, malloc=stats, pools=pools)
    seen = census(
        Heap(start=HEAP, end=HEAP + PAGE, main=True),
        pools=Pools(resident=MIB, live=MIB // 2),
        pieces=(
            Piece(kind=Kind.ARENA, start=MMAP, end=MMAP + MIB, resident=MIB),
            Piece(kind=Kind.CHUNK, start=MMAP + 4 * MIB, end=MMAP + 6 * MIB, resident=2 * MIB),
        ),
        chunks=1,
        chunk_resident=2 * MIB,
    )
    assert known(by_census(before, after, seen)) == {}


def test_mappings_that_went_were_chunks_then_arenas_then_plain_mappings() -> None:
    before = snapshot(
        region(MMAP, 10 * MIB),
        malloc=malloc_stats(hblkhd=3 * MIB),
        pools=pool_stats(arenas=2, allocated=MIB),
    )
    after = snapshot(malloc=malloc_stats(), pools=pool_stats(allocated=0))
    found = by_census(before, after, census(Heap(start=HEAP, end=HEAP, main=True), pools=Pools()))
    assert known(found) == {
        "python_live": -MIB,
        "pool_free": -MIB,
        "malloc_live": -3 * MIB,
        "mapped": -5 * MIB,
    }


def test_of_a_mapping_that_shrank_only_what_it_lost_is_gone() -> None:
    before = snapshot(region(MMAP, 10 * MIB), malloc=malloc_stats(), pools=pool_stats())
    after = snapshot(
        region(MMAP + 2 * MIB, 4 * MIB), region(MMAP + 9 * MIB, 4 * MIB), malloc=malloc_stats(), pools=pool_stats()
    )
    found = by_census(before, after, census(Heap(start=HEAP, end=HEAP, main=True), pools=Pools()))
    assert known(found) == {"mapped": -2 * MIB}


def test_pieces_outside_the_mappings_of_then_are_new() -> None:
    before = snapshot(region(MMAP + 4 * MIB, 2 * MIB), malloc=malloc_stats(), pools=pool_stats())
    after = snapshot(
        region(MMAP, MIB), region(MMAP + 4 * MIB, 2 * MIB), malloc=malloc_stats(), pools=pool_stats(arenas=1, allocated=MIB)
    )
    piece = Piece(kind=Kind.ARENA, start=MMAP, end=MMAP + MIB, resident=MIB)
    straddling = Piece(kind=Kind.ARENA, start=MMAP + 6 * MIB - PAGE, end=MMAP + 7 * MIB, resident=0)
    seen = census(pools=Pools(resident=MIB, live=MIB), pieces=(piece, straddling))
    assert known(by_census(before, after, seen)) == {"python_live": MIB}


def test_accounts_that_cannot_be_told_at_one_end_are_unknown_over_both() -> None:
    before = snapshot(heap_region(MIB))
    after = snapshot(heap_region(2 * MIB), malloc=malloc_stats(uordblks=2 * MIB), pools=pool_stats())
    found = by_census(before, after, census(main_heap(2 * MIB, live=2 * MIB), pools=Pools()))
    assert known(found) == {"unexplained": MIB}
    assert found[A.MALLOC_LIVE] is found[A.PYTHON_LIVE] is None


def test_a_reading_after_the_body_without_malloc_counters_pins_no_bound() -> None:
    before = snapshot(heap_region(MIB), malloc=malloc_stats(uordblks=MIB))
    found = by_census(before, snapshot(heap_region(2 * MIB)), census(main_heap(2 * MIB, live=2 * MIB)))
    assert known(found) == {"malloc_live": MIB}


def test_memory_pinned_now_that_the_body_did_not_free_was_pinned_before() -> None:
    before = snapshot(heap_region(9 * MIB, rss=6 * MIB), malloc=malloc_stats(uordblks=6 * MIB, fordblks=3 * MIB))
    after = snapshot(heap_region(9 * MIB), malloc=malloc_stats(uordblks=6 * MIB, fordblks=3 * MIB))
    found = by_census(before, after, census(main_heap(9 * MIB, live=6 * MIB, pinned=3 * MIB)))
    assert known(found) == {"malloc_live": 3 * MIB}


def test_holes_that_the_body_split_are_pinned_since_whatever_else_was_freed_meanwhile() -> None:
    stats = malloc_stats(uordblks=6 * MIB, fordblks=9 * MIB, ordblks=20)
    before = snapshot(heap_region(15 * MIB, rss=6 * MIB), malloc=stats)
    after = snapshot(heap_region(15 * MIB), malloc=replace(stats, uordblks=stats.uordblks - PAGE, ordblks=3020))
    found = by_census(before, after, census(main_heap(15 * MIB, live=6 * MIB - PAGE, pinned=9 * MIB + PAGE)))
    assert known(found) == {"malloc_live": -PAGE, "pinned": 9 * MIB + PAGE}


# --- the books always close -------------------------------------------------------------------------------------


def sizes(most: int = 64 * MIB) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(0, 64), st.integers(0, most // PAGE).map(lambda pages: pages * PAGE), st.integers(0, most))


@st.composite
def regions(draw: st.DrawFn) -> tuple[Region, ...]:
    at, found = ARENA, []
    names = ("", "", "", "[heap]", "[stack]", "/lib.so", "/memfd:x", "[anon:x]")
    for gap, pages in draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4096)), max_size=8)):
        at += gap * MIB
        rss = draw(st.integers(0, pages)) * PAGE
        perms = draw(st.sampled_from(("rw-p", "rw-p", "---p", "rw-s")))
        lazy = draw(st.integers(0, rss))
        found.append(region(at, pages * PAGE, path=draw(st.sampled_from(names)), perms=perms, rss=rss, lazy_free=lazy))
        at += pages * PAGE
    return tuple(found)


def addresses() -> st.SearchStrategy[int]:
    return st.integers(ARENA // 16, (ARENA + 128 * MIB) // 16).map(lambda at: at * 16)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    mappings = draw(regions())
    stats = st.builds(
        MallocStats,
        arena=sizes(),
        hblks=st.integers(0, 5),
        hblkhd=sizes(),
        fsmblks=sizes(),
        uordblks=sizes(),
        fordblks=sizes(),
        tcache=st.one_of(st.none(), sizes(MIB)),
    )
    pools = st.builds(
        PoolStats,
        arenas=st.integers(0, 20),
        arena_size=st.just(MIB),
        used_pools=st.just(0),
        unused_pools=st.just(0),
        allocated=sizes(),
    )
    return Snapshot(
        rss=draw(sizes(1 << 30)),
        own=draw(sizes(MIB)),
        vm_size=draw(sizes(1 << 40)),
        mappings=mappings,
        malloc=draw(st.one_of(st.none(), stats)),
        pools=draw(st.one_of(st.none(), pools)),
        tops=tuple(draw(st.lists(st.builds(ArenaTop, arena=addresses(), top=addresses(), size=sizes()), max_size=2))),
        stack_pointers=tuple(draw(st.lists(addresses(), max_size=2))),
        threads=draw(st.integers(1, 4)),
        all_stacks_known=draw(st.booleans()),
    )


@st.composite
def censuses(draw: st.DrawFn) -> Census:
    heap = st.builds(
        Heap,
        start=addresses(),
        end=addresses(),
        main=st.booleans(),
        live=sizes(),
        untouched=sizes(),
        tcache=sizes(),
        pinned=sizes(),
        trimmable=sizes(),
        arena_top=sizes(),
        metadata=sizes(),
    )
    bounds = draw(st.lists(addresses(), max_size=8, unique=True).map(sorted))
    pieces = [
        Piece(kind=draw(st.sampled_from(Kind)), start=start, end=end, resident=draw(st.integers(0, end - start)))
        for start, end in zip(bounds[::2], bounds[1::2], strict=False)
    ]
    return Census(
        heaps=tuple(draw(st.lists(heap, max_size=3))),
        pools=draw(st.one_of(st.none(), st.builds(Pools, resident=sizes(), live=sizes()))),
        pieces=tuple(pieces),
        chunk_resident=draw(sizes()),
        bss=((ARENA, ARENA + MIB),) if draw(st.booleans()) else (),
    )


@settings(deadline=None)
@given(growth=st.integers(), given_=st.dictionaries(st.sampled_from(Account), st.one_of(st.none(), st.integers())))
def test_what_is_booked_sums_to_the_growth(growth: int, given_: dict[Account, int | None]) -> None:
    assert total(booked(growth, given_)) == growth


@settings(deadline=None, max_examples=100)
@given(before=snapshots(), after=snapshots())
def test_the_accounts_by_counters_sum_to_the_growth(before: Snapshot, after: Snapshot) -> None:
    found = by_counters(before, after)
    assert total(found) == after.rss - before.rss
    assert all(found[account] is None for account in DIVIDED_BY_CENSUS)
    assert live_slack(before, after, found) >= 0


@settings(deadline=None, max_examples=100)
@given(before=snapshots(), after=snapshots(), seen=censuses(), then=st.one_of(st.none(), st.none(), censuses()))
def test_the_accounts_by_census_sum_to_the_growth(before: Snapshot, after: Snapshot, seen: Census, then: Census | None) -> None:
    found = by_census(before, after, seen, then)
    assert total(found) == after.rss - before.rss
    assert found[A.FREE_HEAP] is None


@settings(deadline=None, max_examples=60)
@given(now=snapshots(), seen=censuses())
def test_the_totals_sum_to_rss(now: Snapshot, seen: Census) -> None:
    assert total(totals(now, seen)) == now.rss


@settings(deadline=None, max_examples=60)
@given(now=snapshots(), spans=st.lists(addresses(), max_size=2))
def test_every_resident_byte_of_every_mapping_is_in_one_class(now: Snapshot, spans: list[int]) -> None:
    found = classify(now, heaps=[span & -HEAP_MAX for span in spans], bss=[(ARENA, ARENA + MIB)])
    classes = (found.heap, found.thread_heaps, found.stack, found.idle_stacks, found.shmem, found.file, found.lazy_free)
    # a mapping without access whose pages are not resident is no memory at all
    assert sum(classes) + found.other_resident == sum(each.rss for each in now.mappings) - now.own


@settings(deadline=None, max_examples=60)
@given(snapshots())
def test_a_process_that_did_not_change_grew_by_nothing(now: Snapshot) -> None:
    assert known(by_counters(now, now)) == {}
    assert allocator_growth(now, now) == address_space_growth(now, now) == 0


# --- what a census itself leaves, and what nobody trimmed -------------------------------------------------------


def test_what_taking_the_census_of_the_baseline_left_in_malloc_stood_at_the_baseline() -> None:
    then = replace(census(main_heap(4 * MIB, live=2 * MIB)), malloc=malloc_stats(uordblks=2 * MIB, tcache=32))
    before = snapshot(heap_region(4 * MIB), malloc=malloc_stats(uordblks=2 * MIB + 80, tcache=64))
    now = census(main_heap(4 * MIB, live=2 * MIB + 48, tcache=32, pinned=0))
    found = by_census(before, snapshot(heap_region(4 * MIB)), now, then)
    assert (found[A.MALLOC_LIVE], found[A.TCACHE], found[A.PINNED]) == (0, 0, 80)


def test_without_a_baseline_trim_free_heap_memory_is_not_divided() -> None:
    before = snapshot(heap_region(5 * MIB), malloc=malloc_stats(uordblks=4 * MIB, fordblks=MIB))
    after = snapshot(heap_region(12 * MIB), malloc=malloc_stats(uordblks=6 * MIB, fordblks=6 * MIB))
    seen = census(main_heap(12 * MIB, live=6 * MIB, trimmable=4 * MIB, pinned=2 * MIB))
    found = by_census(before, after, seen, trimmed=False)
    assert known(found) == {"malloc_live": 2 * MIB, "free_heap": 5 * MIB}
    assert found[A.TRIMMABLE] is found[A.PINNED] is None


def test_a_census_at_the_baseline_says_what_was_trimmable_where_nobody_trimmed() -> None:
    before, after = snapshot(heap_region(4 * MIB)), snapshot(heap_region(4 * MIB))
    then = census(main_heap(4 * MIB, live=2 * MIB, trimmable=2 * MIB))
    now = census(main_heap(4 * MIB, live=3 * MIB, trimmable=MIB))
    assert known(by_census(before, after, now, then, trimmed=False)) == {"malloc_live": MIB, "trimmable": -MIB}
