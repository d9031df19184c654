from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_rssguard.baseline import QUANTUM, Baseline, Entry, dump_baseline, round_up
from pytest_rssguard.gate import (
    FLOOR,
    LEAST_SAMPLES,
    Change,
    Excess,
    Metric,
    Mode,
    Sizes,
    compare,
    find_nearest,
    improves,
    least,
    limit,
    make_entry,
    sizes,
    update,
)  # fmt: skip
from tests.builders import KIB, MIB, record

KEY: Final = "linux-x86_64-cp311-glibc2.36-pymalloc"
FOUND = st.integers(-(1 << 34), 1 << 34)
BASES = st.integers(0, 1 << 34)
SAMPLES = st.lists(BASES, max_size=9).map(tuple)


def entries() -> st.SearchStrategy[Entry]:
    return st.builds(
        Entry,
        held=BASES.map(round_up),
        retained=BASES.map(round_up),
        samples=SAMPLES,
        retained_samples=SAMPLES,
        src=st.sampled_from(("", "a", "b")),
        note=st.sampled_from((None, "why")),
        expires=st.sampled_from((None, date(2027, 1, 1))),
    )


def measured_entries() -> st.SearchStrategy[Entry]:
    return entries().map(lambda entry: replace(entry, note=None, expires=None))


NAMES = st.sampled_from([f"t.py::{letter}" for letter in "abcde"])
BASELINES = st.builds(Baseline, key=st.just(KEY), tests=st.dictionaries(NAMES, entries(), max_size=5))
MEASURED = st.dictionaries(NAMES, measured_entries(), max_size=5)


def excesses(entry: Entry, held: int = 0, retained: int = 0) -> list[Excess]:
    return list(compare(entry, Sizes(held=held, retained=retained)))


# --- the rule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "samples", "expected"),
    [
        (0, (), MIB),
        (MIB, (), 2 * MIB),
        (10 * MIB, (), 11 * MIB),
        (100 * MIB, (), 110 * MIB),
        (0, (9 * MIB,) * 4, MIB),
        (0, (9 * MIB,) * 5, 9 * MIB),
        (0, (MIB, 2 * MIB, 3 * MIB, 4 * MIB, 5 * MIB), 3 * MIB + int(5.9304 * MIB)),
        (0, (MIB, 2 * MIB, 3 * MIB, 4 * MIB, 5 * MIB, 6 * MIB), int(3.5 * MIB + 5.9304 * 1.5 * MIB)),
    ],
)
def test_the_limit_is_the_largest_of_floor_percent_and_spread(base: int, samples: tuple[int, ...], expected: int) -> None:
    assert limit(base, samples) == expected


def test_a_regression_begins_one_byte_over_the_limit() -> None:
    entry = Entry(held=0, retained=20 * MIB)
    assert excesses(entry, MIB, 22 * MIB) == []
    assert excesses(entry, MIB + 1, 22 * MIB + 1) == [
        Excess(metric=Metric.HELD, found=MIB + 1, baseline=0, limit=MIB),
        Excess(metric=Metric.RETAINED, found=22 * MIB + 1, baseline=20 * MIB, limit=22 * MIB),
    ]


@settings(deadline=None)
@given(entries(), FOUND, FOUND, BASES)
def test_more_memory_never_passes_where_less_fails(entry: Entry, held: int, retained: int, more: int) -> None:
    fails = {each.metric for each in excesses(entry, held, retained)}
    assert fails <= {each.metric for each in excesses(entry, held + more, retained + more)}


@settings(deadline=None)
@given(entries(), FOUND, FOUND, BASES)
def test_a_larger_baseline_never_fails_where_a_smaller_passes(entry: Entry, held: int, retained: int, more: int) -> None:
    larger = replace(entry, held=entry.held + more, retained=entry.retained + more)
    assert {each.metric for each in excesses(larger, held, retained)} <= {
        each.metric for each in excesses(entry, held, retained)
    }


@settings(deadline=None)
@given(entries(), FOUND, FOUND)
def test_a_regression_needs_all_of_its_conditions(entry: Entry, held: int, retained: int) -> None:
    for excess in excesses(entry, held, retained):
        samples = entry.samples if excess.metric is Metric.HELD else entry.retained_samples
        assert excess.found > excess.limit >= excess.baseline + FLOOR
        assert excess.found * 100 > excess.baseline * 110
        if len(samples) >= LEAST_SAMPLES:
            assert excess.found > sorted(samples)[(len(samples) - 1) // 2]


@settings(deadline=None)
@given(FOUND, FOUND, st.sampled_from(("", "a")))
def test_what_made_an_entry_is_within_it(held: int, retained: int, src: str) -> None:
    made = record(held=held, retained=retained)
    assert list(compare(make_entry(made, src=src), sizes(made))) == []


def test_of_rounds_the_least_counts_and_all_are_samples() -> None:
    rounds = ({"growth": 9, "held": 3 * MIB, "retained": 5}, {"growth": 8, "held": MIB, "retained": 7})
    made = record(held=2 * MIB, retained=9, rounds=rounds)
    assert sizes(made) == Sizes(held=MIB, retained=5)
    assert make_entry(made, src="a") == Entry(
        held=MIB, retained=QUANTUM, samples=(3 * MIB, MIB), retained_samples=(QUANTUM, QUANTUM), src="a"
    )


def test_without_rounds_the_record_itself_counts() -> None:
    assert make_entry(record(held=1, retained=-5)) == Entry(held=QUANTUM, retained=0, samples=(QUANTUM,))
    odd = record(held=4, retained=3, rounds=({"growth": 7},))
    assert [least(odd, metric) for metric in Metric] == [4, 3]
    assert make_entry(odd) == Entry(held=QUANTUM, retained=QUANTUM)


def test_clearly_less_is_an_improvement() -> None:
    entry = Entry(held=30 * MIB, retained=0)
    assert not improves(entry, Sizes(held=28 * MIB, retained=0))
    assert improves(entry, Sizes(held=26 * MIB, retained=0))
    assert not improves(Entry(held=MIB, retained=0), Sizes(held=-9 * MIB, retained=0))


# --- updates ----------------------------------------------------------------------------------------------------


def before(**tests: Entry) -> Baseline:
    return Baseline(key=KEY, tests=tests)


@settings(deadline=None)
@given(BASELINES, MEASURED, st.sampled_from(Mode), st.sets(NAMES))
def test_updating_twice_changes_nothing(old: Baseline, measured: dict[str, Entry], mode: Mode, stale: set[str]) -> None:
    once, _ = update(old, measured, mode, stale=stale)
    twice, changes = update(once, measured, mode, stale=stale)
    assert (twice, changes) == (once, ())
    assert dump_baseline(twice) == dump_baseline(once)


@settings(deadline=None)
@given(BASELINES, MEASURED, st.sampled_from(Mode), st.sets(NAMES))
def test_changes_tell_all_that_changed(old: Baseline, measured: dict[str, Entry], mode: Mode, stale: set[str]) -> None:
    new, changes = update(old, measured, mode, stale=stale)
    assert [change.nodeid for change in changes] == sorted(change.nodeid for change in changes)
    for change in changes:
        assert (old.tests.get(change.nodeid), new.tests.get(change.nodeid)) == (change.old, change.new)
        assert change.kind in {"added", "dropped", "raised", "lowered", "renewed"}
    touched = {change.nodeid for change in changes}
    assert {name for name in old.tests.keys() | new.tests.keys() if old.tests.get(name) != new.tests.get(name)} == touched


@settings(deadline=None)
@given(BASELINES, MEASURED)
def test_new_only_adds(old: Baseline, measured: dict[str, Entry]) -> None:
    new, _ = update(old, measured, Mode.NEW)
    assert new.tests == {**measured, **old.tests}


@settings(deadline=None)
@given(BASELINES, MEASURED)
@example(
    before(a=Entry(held=3 * MIB, retained=0, samples=(3 * MIB,))),
    {"a": Entry(held=0, retained=0, samples=(0, 9 * MIB, 9 * MIB, 9 * MIB, 0))},
)
@example(
    before(a=Entry(held=0, retained=3 * MIB)),
    {"a": Entry(held=0, retained=0, retained_samples=(0, 9 * MIB, 9 * MIB, 9 * MIB, 0))},
)
def test_a_ratchet_adds_and_never_raises_a_size_or_a_limit(old: Baseline, measured: dict[str, Entry]) -> None:
    new, _ = update(old, measured, Mode.RATCHET)
    assert new.tests.keys() == old.tests.keys() | measured.keys()
    for name, entry in old.tests.items():
        now = new.tests[name]
        assert (now.held <= entry.held, now.retained <= entry.retained) == (True, True)
        assert limit(now.held, now.samples) <= limit(entry.held, entry.samples)
        assert limit(now.retained, now.retained_samples) <= limit(entry.retained, entry.retained_samples)


@settings(deadline=None)
@given(BASELINES, MEASURED)
def test_all_takes_what_differs_by_more_than_noise(old: Baseline, measured: dict[str, Entry]) -> None:
    new, _ = update(old, measured, Mode.ALL)
    for name, entry in measured.items():
        for metric in Metric:
            now, then = getattr(new.tests[name], metric), getattr(entry, metric)
            assert abs(now - then) <= max(FLOOR, getattr(old.tests.get(name, entry), metric) // 10)
    assert {name: new.tests[name] for name in old.tests if name not in measured} == {
        name: entry for name, entry in old.tests.items() if name not in measured
    }


@settings(deadline=None)
@given(BASELINES, MEASURED, st.sampled_from(Mode))
def test_what_was_written_by_hand_is_kept(old: Baseline, measured: dict[str, Entry], mode: Mode) -> None:
    new, _ = update(old, measured, mode)
    for name, entry in old.tests.items():
        assert (new.tests[name].note, new.tests[name].expires) == (entry.note, entry.expires)


@settings(deadline=None)
@given(BASELINES, MEASURED, st.sets(NAMES))
def test_prune_drops_what_is_stale_and_nothing_else(old: Baseline, measured: dict[str, Entry], stale: set[str]) -> None:
    new, _ = update(old, measured, Mode.PRUNE, stale=stale)
    assert new.tests == {name: entry for name, entry in old.tests.items() if name not in stale}
    for mode in (Mode.NEW, Mode.RATCHET, Mode.ALL):
        assert update(old, measured, mode, stale=stale)[0].tests.keys() >= old.tests.keys()


def test_noise_never_churns_the_file() -> None:
    old = before(small=Entry(held=0, retained=0), large=Entry(held=100 * MIB, retained=0))
    noise = {"small": Entry(held=MIB, retained=MIB), "large": Entry(held=110 * MIB, retained=0)}
    assert update(old, noise, Mode.ALL)[1] == ()
    moved = {"small": Entry(held=MIB + QUANTUM, retained=0), "large": Entry(held=110 * MIB + QUANTUM, retained=0)}
    assert [change.kind for change in update(old, moved, Mode.ALL)[1]] == ["raised", "raised"]


def test_the_hash_of_a_changed_test_is_taken_over_where_that_hides_nothing() -> None:
    old = before(a=Entry(held=0, retained=0, src="old"))
    small, large = Entry(held=64 * KIB, retained=0, src="new"), Entry(held=5 * MIB, retained=0, src="new")
    assert update(old, {"a": small}, Mode.NEW)[1] == ()
    for mode in (Mode.RATCHET, Mode.ALL):
        (change,) = update(old, {"a": small}, mode)[1]
        assert (change.kind, change.new) == ("renewed", Entry(held=0, retained=0, src="new"))
    assert update(old, {"a": large}, Mode.RATCHET)[1] == ()
    assert update(old, {"a": large}, Mode.ALL)[0].tests == {"a": large}
    assert update(old, {"a": replace(small, src="")}, Mode.ALL)[1] == ()


def test_a_change_of_both_directions_is_a_raise() -> None:
    old, new = Entry(held=9 * MIB, retained=0), Entry(held=0, retained=2 * MIB)
    assert Change(nodeid="a", old=old, new=new).kind == "raised"


# --- environments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], None),
        ([KEY], None),
        (
            ["linux-x86_64-cp312-glibc2.39-pymalloc", "linux-x86_64-cp311-glibc2.39-pymalloc"],
            ("linux-x86_64-cp311-glibc2.39-pymalloc", [("glibc2.39", "glibc2.36")]),
        ),
        (["linux-x86_64"], ("linux-x86_64", [("nothing", "cp311"), ("nothing", "glibc2.36"), ("nothing", "pymalloc")])),
        (
            ["linux-x86_64-cp311-glibc2.36-pymalloc-foreign"],
            ("linux-x86_64-cp311-glibc2.36-pymalloc-foreign", [("foreign", "nothing")]),
        ),
    ],
)
def test_the_nearest_environment_differs_least(others: list[str], expected: tuple[str, list[tuple[str, str]]] | None) -> None:
    assert find_nearest(KEY, others) == expected
