from __future__ import annotations

from pytest_rssguard.conclusion import Knowledge, Readings, conclude
from pytest_rssguard.model import Account, Heap, Limit, Outcome
from tests.builders import MIB, census, malloc_stats, pool_stats, region, snapshot

HEAP = 0x5555_5555_0000
MMAP = 0x7F80_0000_0000
LIMIT = Limit(tolerance=4 * MIB)


def readings(heap: int, mapped: int) -> Readings:
    """Return readings between which the heap and anonymous mappings grew by so much."""
    old = snapshot(region(HEAP, MIB, path="[heap]"), region(MMAP, MIB), malloc=malloc_stats(), pools=pool_stats())
    new = snapshot(
        region(HEAP, MIB + heap, path="[heap]"), region(MMAP, MIB + mapped), malloc=malloc_stats(), pools=pool_stats()
    )
    return Readings(old=old, new=new)


def test_behind_an_unknown_allocator_no_mapping_is_called_held() -> None:
    found = conclude(readings(0, 10 * MIB), LIMIT, Knowledge(blind="jemalloc", python_in_malloc=False))
    assert found.verdict.outcome is Outcome.UNMEASURABLE
    assert found.evidence.accounts[Account.MAPPED] is None
    assert found.evidence.accounts[Account.UNEXPLAINED] == 10 * MIB


def test_the_same_growth_where_all_is_known_is_a_leaked_mapping() -> None:
    found = conclude(readings(0, 10 * MIB), LIMIT, Knowledge(blind="", python_in_malloc=False))
    assert found.verdict.outcome is Outcome.LEAKED
    assert found.evidence.accounts[Account.MAPPED] == 10 * MIB


def test_where_python_takes_its_objects_from_malloc_its_own_accounts_are_zero() -> None:
    found = conclude(readings(0, 10 * MIB), LIMIT, Knowledge(blind="", python_in_malloc=True))
    assert found.evidence.accounts[Account.PYTHON_LIVE] == found.evidence.accounts[Account.POOL_FREE] == 0
    assert sum(size or 0 for size in found.evidence.accounts.values()) == found.evidence.growth


def test_a_census_that_closes_divides_the_heap() -> None:
    old = snapshot(region(HEAP, 4 * MIB, path="[heap]"), malloc=malloc_stats(uordblks=4 * MIB, arena=4 * MIB))
    new = snapshot(region(HEAP, 12 * MIB, path="[heap]"), malloc=malloc_stats(uordblks=4 * MIB, arena=12 * MIB))
    heap = Heap(start=HEAP, end=HEAP + 12 * MIB, main=True, live=4 * MIB, trimmable=8 * MIB)
    taken = Readings(old=old, new=new, taken=census(heap))
    assert taken.closes
    found = conclude(taken, LIMIT, Knowledge(blind="", python_in_malloc=False))
    assert found.verdict.outcome is Outcome.RETAINED
    assert found.evidence.accounts[Account.TRIMMABLE] == 8 * MIB
    torn = Readings(old=old, new=new, taken=census(heap, problems=("torn",)))
    assert not torn.closes
    assert conclude(torn, LIMIT, Knowledge(blind="", python_in_malloc=False)).evidence.accounts[Account.TRIMMABLE] is None


def test_without_mappings_only_the_counters_speak() -> None:
    old = snapshot(rss=10 * MIB, malloc=malloc_stats(uordblks=MIB), pools=pool_stats())
    new = snapshot(rss=20 * MIB, malloc=malloc_stats(uordblks=11 * MIB), pools=pool_stats())
    found = conclude(Readings(old=old, new=new), LIMIT, Knowledge(blind="", python_in_malloc=False))
    assert (found.hole, found.evidence.growth, found.evidence.allocated) == (0, 10 * MIB, 10 * MIB)
