from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.ledger import booked
from pytest_rssguard.model import Account, Evidence, Limit, Outcome, Retained, Verdict
from pytest_rssguard.verdict import judge
from tests.builders import MIB, evidence

LIMIT = Limit(tolerance=4 * MIB)
OVER = 10 * MIB


def judged(limit: Limit = LIMIT, **facts: Any) -> Verdict:  # noqa: ANN401 - fields of Evidence
    return judge(evidence(**facts), limit)


def test_nothing_that_grew_is_returned() -> None:
    assert judged() == Verdict(outcome=Outcome.RETURNED)


def test_exactly_the_tolerance_is_returned_and_one_byte_more_is_not() -> None:
    at = judged(growth=LIMIT.tolerance, allocated=LIMIT.tolerance, malloc_live=LIMIT.tolerance)
    over = judged(growth=LIMIT.tolerance + 1, allocated=LIMIT.tolerance + 1, malloc_live=LIMIT.tolerance + 1)
    assert (at.outcome, over.outcome) == (Outcome.RETURNED, Outcome.LEAKED)


def test_held_and_allocated_over_the_tolerance_is_leaked() -> None:
    assert judged(growth=OVER, malloc_live=OVER, allocated=OVER) == Verdict(outcome=Outcome.LEAKED)


def test_a_leak_into_pages_that_were_free_before_is_masked() -> None:
    found = judged(growth=0, malloc_live=OVER, trimmable=-OVER, allocated=OVER)
    assert found == Verdict(outcome=Outcome.LEAKED, masked=True)


def test_held_memory_that_nobody_allocated_here_was_first_written_here() -> None:
    assert judged(growth=OVER, malloc_live=OVER, allocated=0) == Verdict(outcome=Outcome.GREW, why="first written here")


def test_allocated_memory_that_is_not_resident_is_returned() -> None:
    assert judged(allocated=1 << 30) == Verdict(outcome=Outcome.RETURNED)


def test_without_counters_nothing_is_called_leaked() -> None:
    assert judged(growth=OVER, malloc_live=OVER, allocated=None).outcome is Outcome.GREW


def test_freed_memory_that_stayed_is_retained() -> None:
    assert judged(growth=OVER, trimmable=OVER) == Verdict(outcome=Outcome.RETAINED)


def test_retained_need_explain_only_what_is_over_the_tolerance() -> None:
    most = OVER - LIMIT.tolerance
    assert judged(growth=OVER, pinned=most, file=OVER - most) == Verdict(outcome=Outcome.RETAINED)
    assert judged(growth=OVER, pinned=most - 1, file=OVER - most + 1) == Verdict(outcome=Outcome.GREW, why="mapped files")


def test_refilling_what_only_our_own_trim_emptied_is_no_growth() -> None:
    assert judged(growth=OVER, growth_untrimmed=LIMIT.tolerance, trimmable=OVER).outcome is Outcome.RETURNED
    assert judged(growth=OVER, growth_untrimmed=LIMIT.tolerance + 1, trimmable=OVER).outcome is Outcome.RETAINED


def test_a_leak_is_a_leak_whatever_our_own_trim_emptied() -> None:
    assert judged(growth=OVER, growth_untrimmed=0, malloc_live=OVER, allocated=OVER).outcome is Outcome.LEAKED


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"file": OVER}, "mapped files"),
        ({"file": OVER // 2}, "mapped files"),
        ({"file": OVER // 2 - 1}, "unexplained"),
        ({"file": None}, "unexplained"),
        ({}, "unexplained"),
    ],
)
def test_growth_that_nothing_explains_names_the_larger_rest(facts: dict[str, Any], why: str) -> None:
    assert judged(growth=OVER, **facts) == Verdict(outcome=Outcome.GREW, why=why)


@pytest.mark.parametrize(
    ("kept", "growth", "expected"),
    [
        (8 * MIB, 8 * MIB, Verdict(outcome=Outcome.RETURNED)),
        (8 * MIB + 1, 8 * MIB + 1, Verdict(outcome=Outcome.RETAINED, over_budget=True)),
        (9 * MIB, 0, Verdict(outcome=Outcome.RETAINED, over_budget=True)),
        (8 * MIB, 12 * MIB, Verdict(outcome=Outcome.RETURNED)),
        (8 * MIB, 12 * MIB + 1, Verdict(outcome=Outcome.GREW, why="unexplained")),
        (-8 * MIB, 4 * MIB + 1, Verdict(outcome=Outcome.GREW, why="unexplained")),
        (-8 * MIB, 4 * MIB, Verdict(outcome=Outcome.RETURNED)),
    ],
)
def test_a_budget_judges_retained_memory_apart_from_the_rest(kept: int, growth: int, expected: Verdict) -> None:
    limit = Limit(tolerance=4 * MIB, budget=8 * MIB)
    assert judged(limit, growth=growth, trimmable=kept) == expected


def test_growth_of_a_private_allocators_mappings_cannot_be_told() -> None:
    found = judged(growth=OVER, mapped=OVER, allocated=OVER, allocated_mapped=OVER, private_allocators=("libarrow.so",))
    assert found == Verdict(outcome=Outcome.UNMEASURABLE, why="private allocator")


def test_a_leak_beside_a_private_allocators_mappings_is_a_leak() -> None:
    found = judged(
        growth=2 * OVER,
        mapped=OVER,
        malloc_live=OVER,
        allocated=2 * OVER,
        allocated_mapped=OVER,
        private_allocators=("libarrow.so",),
    )
    assert found == Verdict(outcome=Outcome.LEAKED)


def test_mappings_of_a_private_allocator_that_were_only_first_written_cannot_be_told_either() -> None:
    found = judged(growth=OVER, mapped=OVER, allocated=0, private_allocators=("libarrow.so",))
    assert found == Verdict(outcome=Outcome.UNMEASURABLE, why="private allocator")


def test_without_a_private_allocator_growth_of_mappings_is_a_leak() -> None:
    assert judged(growth=OVER, mapped=OVER, allocated=OVER, allocated_mapped=OVER).outcome is Outcome.LEAKED


def test_held_memory_that_may_be_untouched_is_not_called_leaked_where_the_heap_could_not_be_walked() -> None:
    surely = OVER - LIMIT.tolerance
    found = judged(growth=OVER, malloc_live=OVER, allocated=OVER, held_slack=surely)
    assert found == Verdict(outcome=Outcome.UNMEASURABLE, why="the heap could not be walked")
    assert judged(growth=OVER, malloc_live=OVER, allocated=OVER, held_slack=surely - 1).outcome is Outcome.LEAKED


def test_a_process_that_cannot_be_measured_is_never_a_pass() -> None:
    assert judged(blind="no smaps") == Verdict(outcome=Outcome.UNMEASURABLE, why="no smaps")


def sizes() -> st.SearchStrategy[int]:
    # few values, so that ties and exact limits are common
    return st.one_of(st.integers(-6, 12), st.integers(-(1 << 40), 1 << 40))


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    growth = draw(sizes())
    known = draw(st.dictionaries(st.sampled_from(Account), st.one_of(st.none(), sizes())))
    return Evidence(
        growth=growth,
        growth_untrimmed=draw(sizes()),
        accounts=booked(growth, known),
        allocated=draw(st.one_of(st.none(), sizes())),
        allocated_mapped=draw(sizes()),
        held_slack=draw(st.integers(0, 12)),
        private_allocators=draw(st.sampled_from(((), ("libarrow.so",)))),
        blind=draw(st.sampled_from(("", "", "no smaps"))),
    )


@settings(deadline=None, max_examples=500)
@given(
    facts=evidences(),
    tolerance=st.integers(0, 12),
    more=st.one_of(st.integers(0, 12), st.integers(0, 1 << 40)),
    budget=st.one_of(st.none(), st.integers(0, 12)),
)
def test_a_larger_tolerance_never_turns_a_pass_into_a_failure(
    facts: Evidence, tolerance: int, more: int, budget: int | None
) -> None:
    tight = judge(facts, Limit(tolerance=tolerance, budget=budget))
    loose = judge(facts, Limit(tolerance=tolerance + more, budget=budget))
    if tight.outcome is Outcome.RETURNED:
        assert loose.outcome is Outcome.RETURNED


@settings(deadline=None, max_examples=500)
@given(facts=evidences(), tolerance=st.integers(0, 12), more=st.integers(0, 12))
def test_where_retained_memory_only_warns_a_larger_tolerance_fails_no_test_either(
    facts: Evidence, tolerance: int, more: int
) -> None:
    passes = {Outcome.RETURNED, Outcome.RETAINED}
    tight = judge(facts, Limit(tolerance=tolerance, retained=Retained.WARN))
    loose = judge(facts, Limit(tolerance=tolerance + more, retained=Retained.WARN))
    if tight.outcome in passes:
        assert loose.outcome in passes


@settings(deadline=None, max_examples=300)
@given(facts=evidences(), tolerance=st.integers(0, 12), budget=st.one_of(st.none(), st.integers(0, 12)))
def test_a_leak_is_masked_exactly_when_rss_is_within_the_tolerance(facts: Evidence, tolerance: int, budget: int | None) -> None:
    found = judge(facts, Limit(tolerance=tolerance, budget=budget))
    assert found.masked == (found.outcome is Outcome.LEAKED and facts.growth <= tolerance)
    assert found.outcome is not Outcome.NOT_JUDGED
    assert bool(found.why) == (found.outcome in {Outcome.GREW, Outcome.UNMEASURABLE})
