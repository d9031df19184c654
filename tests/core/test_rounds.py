"""Rounds: which one decides, how live blocks are counted, and what all of them say together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_rssguard.explain import explain, tell_rounds
from pytest_rssguard.model import Outcome
from pytest_rssguard.result import Result, Round
from pytest_rssguard.rounds import decide, new_blocks
from tests.builders import MIB, census, evidence, malloc_stats, result, snapshot

OVER = 10 * MIB


def leak(size: int, **changes: Any) -> Result:  # noqa: ANN401 - fields of Result
    return result(
        Outcome.LEAKED,
        size,
        malloc_live=size,
        allocated=size,
        evidence=evidence(size, malloc_live=size, allocated=size),
        **changes,
    )


def kept(size: int, **changes: Any) -> Result:  # noqa: ANN401 - fields of Result
    return result(Outcome.RETAINED, size, trimmable=size, **changes)


def rounds_of(*results: Result) -> tuple[dict[int, Result], list[Round]]:
    return dict(enumerate(results, 1)), [
        Round(growth=each.growth, held=each.held, retained=each.retained, allocated=each.allocated) for each in results
    ]


def decided(*results: Result) -> tuple[int, Outcome]:
    found = decide(*rounds_of(*results))
    assert len(found.rounds) == len(results)
    return found.decided, found.verdict.outcome


def test_where_every_round_leaked_the_least_leak_decides() -> None:
    assert decided(leak(12 * MIB), leak(OVER), leak(11 * MIB)) == (2, Outcome.LEAKED)


def test_of_equal_rounds_the_last_decides() -> None:
    assert decided(leak(OVER), leak(OVER), leak(OVER)) == (3, Outcome.LEAKED)


def test_one_round_that_returned_clears_the_body() -> None:
    assert decided(leak(OVER), result(Outcome.RETURNED, 0), leak(OVER)) == (2, Outcome.RETURNED)


def test_a_round_that_cannot_be_measured_never_makes_a_leak_of_the_others() -> None:
    unknown = result(Outcome.UNMEASURABLE, 0, why="the heap could not be walked")
    assert decided(leak(OVER), unknown, leak(OVER)) == (2, Outcome.UNMEASURABLE)


def test_otherwise_the_round_whose_rss_grew_least_decides() -> None:
    assert decided(kept(12 * MIB), kept(OVER), kept(11 * MIB)) == (2, Outcome.RETAINED)


def test_a_leak_that_another_round_does_not_confirm_is_judged_without_being_one() -> None:
    # the leaking round grew least, so it decides; but a leak it is not, as another round held nothing
    found = decide(*rounds_of(kept(12 * MIB), leak(OVER)))
    assert (found.decided, found.verdict.outcome, found.verdict.why) == (2, Outcome.GREW, "first written here")


def test_a_leak_whose_evidence_is_gone_stays_what_it_was() -> None:
    bare = result(Outcome.LEAKED, OVER, malloc_live=OVER, evidence=None)
    assert decided(kept(12 * MIB), bare) == (2, Outcome.LEAKED)


def test_with_a_budget_the_round_that_retained_least_decides() -> None:
    least = result(Outcome.RETAINED, 30 * MIB, trimmable=9 * MIB, budget=8 * MIB, over_budget=True)
    most = result(Outcome.RETAINED, 20 * MIB, trimmable=20 * MIB, budget=8 * MIB, over_budget=True)
    assert decided(most, least) == (2, Outcome.RETAINED)


@given(st.lists(st.integers(5 * MIB, 50 * MIB), min_size=1, max_size=6))
def test_a_leak_in_every_round_is_told_with_the_least(sizes: list[int]) -> None:
    found = decide(*rounds_of(*map(leak, sizes)))
    assert (found.verdict.outcome, found.held) == (Outcome.LEAKED, min(sizes))


# --- blocks -----------------------------------------------------------------------------------------------------


def read(blocks: int, in_use: int) -> Any:  # noqa: ANN401 - a Snapshot
    return snapshot(blocks={32: blocks}, malloc=malloc_stats(uordblks=in_use))


def test_without_readings_nobody_counted() -> None:
    assert new_blocks(result(Outcome.LEAKED, OVER)) is None


@pytest.mark.parametrize(("in_use", "expected"), [(1000, 5), (1016, None)])
def test_without_censuses_blocks_are_python_s_alone_unless_malloc_moved(in_use: int, expected: int | None) -> None:
    found = result(Outcome.LEAKED, OVER, before=read(10, 1000), after=read(15, in_use))
    assert new_blocks(found) == expected


def test_censuses_at_both_ends_count_malloc_s_blocks() -> None:
    then = census(chunks=3, malloc=malloc_stats(uordblks=900))
    now = census(chunks=10, malloc=malloc_stats(uordblks=5900))
    found = result(Outcome.LEAKED, OVER, before=read(10, 1000), after=read(15, 6000), then=then, now=now)
    assert new_blocks(found) == 7 + 5


def test_censuses_that_themselves_left_something_behind_count_nothing() -> None:
    then = census(chunks=3, malloc=malloc_stats(uordblks=900))
    now = census(chunks=10, malloc=malloc_stats(uordblks=5916))
    found = result(Outcome.LEAKED, OVER, before=read(10, 1000), after=read(15, 6000), then=then, census=now)
    assert new_blocks(found) is None


# --- what they say ----------------------------------------------------------------------------------------------


def told(outcome: Outcome, *rounds: Round, number: int = 1, **changes: Any) -> str:  # noqa: ANN401 - fields of Result
    return tell_rounds(result(outcome, rounds[number - 1].growth, rounds=rounds, decided=number, **changes))


def one(growth: int, held: int = 0, blocks: int | None = None) -> Round:
    return Round(growth=growth, held=held, retained=0, blocks=blocks)


@pytest.mark.parametrize(("blocks", "counted"), [(1, " in 1 block"), (1200, " in 1,200 blocks"), (0, ""), (-1, ""), (None, "")])
def test_equal_leaks_are_told_to_the_byte_with_their_blocks(blocks: int | None, counted: str) -> None:
    found = told(Outcome.LEAKED, one(4096, 2064), one(4096, 2064, blocks), number=2)
    assert found == f"every one of 2 rounds leaked 2,064 B{counted}"


def test_blocks_that_another_round_of_the_same_size_counted_are_told() -> None:
    found = told(Outcome.LEAKED, one(0, 2064, 3), one(0, 2064), number=2)
    assert found == "every one of 2 rounds leaked 2,064 B in 3 blocks"


def test_different_leaks_are_told_with_the_least_and_the_most() -> None:
    found = told(Outcome.LEAKED, one(0, 2 * MIB), one(0, 64, 2), number=2)
    assert found == "every one of 2 rounds leaked: 64 B in 2 blocks at least, 2.00 MiB at most; round 2 decides"


def test_a_first_round_that_alone_grew_is_first_use() -> None:
    found = told(Outcome.RETURNED, one(8 * MIB), one(4096), one(0), number=3)
    assert found == "round 1 +8.00 MiB, then +4.00 KiB: first-use cost, not a leak"


def test_other_rounds_are_told_by_their_growth() -> None:
    assert told(Outcome.RETAINED, one(MIB), one(MIB)) == "2 rounds grew by +1.00 MiB, +1.00 MiB"
    found = told(Outcome.RETURNED, *(one(size << 10) for size in range(9)))
    assert found.startswith("9 rounds grew by +0 B, +1.00 KiB, ")
    assert found.endswith("+7.00 KiB, …; round 1 decides")


def test_the_text_of_a_failure_says_what_the_rounds_say() -> None:
    found = result(Outcome.LEAKED, OVER, malloc_live=OVER, rounds=(one(OVER, OVER), one(OVER, OVER)), decided=2)
    assert "rounds    every one of 2 rounds leaked 10.0 MiB" in list(explain(found))
