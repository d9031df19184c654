"""The gate's texts: whole ones in tests/core/golden/gate/, rewritten when RSSGUARD_FIX_GOLDEN=1 is set, then read by eye."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.baseline import Entry
from pytest_rssguard.gate import Change, Excess, Metric, Mode, Standing, compare, limit
from pytest_rssguard.gate import Sizes as GateSizes
from pytest_rssguard.model import Outcome
from pytest_rssguard.regression import Confirmation, explain_regression, explain_unfailed, name_excess
from pytest_rssguard.reporters.gate_text import GateRun, gate_lines
from pytest_rssguard.result import Result
from tests.builders import MIB, region, result, snapshot

GOLDEN: Final = Path(__file__).parent / "golden" / "gate"
TODAY: Final = date(2027, 3, 1)
FILE: Final = "tests/rss/linux-x86_64-cp311-glibc2.36-pymalloc.json"
KEY: Final = "linux-x86_64-cp311-glibc2.36-pymalloc"
HEAP: Final = region(0x5555_5555_0000, MIB, path="[heap]")
HELD: Final = result(
    Outcome.RETURNED,
    13 * MIB,
    tolerance=60 * MIB,
    malloc_live=13 * MIB,
    allocated=13 * MIB,
    before=snapshot(HEAP),
    after=snapshot(region(0x5555_5555_0000, 14 * MIB, path="[heap]")),
)
RETAINED: Final = result(Outcome.RETURNED, 24 * MIB, tolerance=60 * MIB, trimmable=22 * MIB, malloc_live=2 * MIB)
BOTH: Final = result(Outcome.RETURNED, 24 * MIB, tolerance=60 * MIB, trimmable=11 * MIB, malloc_live=13 * MIB)
SPREAD: Final = (MIB, 2 * MIB, 3 * MIB, 4 * MIB, 5 * MIB)


def text(found: Result, entry: Entry, confirmation: Confirmation, **changes: Any) -> str:  # noqa: ANN401 - arguments
    excesses = tuple(compare(entry, GateSizes(held=found.held, retained=found.retained)))
    assert excesses
    arguments: dict[str, Any] = {
        "today": TODAY, "nodeid": "tests/test_a.py::test_b[a b]", "folder": "tests/rss", "file": FILE, **changes,
    }  # fmt: skip
    told = explain_regression(excesses, found, confirmation=confirmation, entry=entry, **arguments)
    return f"RssRegression: {told}\n"


def lines(quiet: bool = False, **changes: Any) -> str:  # noqa: ANN401 - fields of GateRun
    fields: dict[str, Any] = {
        "key": KEY, "given": "tests/rss", "file": FILE, "exists": True, "standings": {}, "today": TODAY, **changes,
    }  # fmt: skip
    return "\n".join(gate_lines(GateRun(**fields), quiet=quiet)) + "\n"


ENTRY: Final = Entry(held=0, retained=0)
CHANGES: Final = (
    Change(nodeid="t.py::test_new", old=None, new=Entry(held=65536, retained=0)),
    Change(nodeid="t.py::test_less", old=Entry(held=9 * MIB, retained=MIB), new=Entry(held=65536, retained=MIB)),
    Change(nodeid="t.py::test_more", old=Entry(held=0, retained=0), new=Entry(held=0, retained=1023 * MIB)),
    Change(nodeid="t.py::test_same", old=Entry(held=0, retained=0), new=Entry(held=0, retained=0, src="a")),
    Change(nodeid="t.py::test_gone", old=Entry(held=0, retained=0), new=None),
)
WAIVED: Final = Entry(held=0, retained=0, note="GH-123", expires=date(2027, 3, 1))
TEXTS: Final[dict[str, str]] = {
    "regression_held": text(HELD, Entry(held=MIB, retained=0), Confirmation(result=HELD)),
    "regression_retained": text(
        RETAINED,
        Entry(held=2 * MIB, retained=20 * MIB - 65536, note="grows with the corpus", expires=date(2027, 1, 31)),
        Confirmation(impossible="unittest.IsolatedAsyncioTestCase starts its event loop once"),
        reason="the whole corpus",
    ),
    "regression_both": text(
        BOTH, Entry(held=MIB, retained=0, samples=SPREAD), Confirmation(rounds=3), marked=False
    ),
    "gate_all_within": lines(standings={Standing.WITHIN: ["t.py::a", "t.py::b"]}),
    "gate_everything": lines(
        standings={
            Standing.WITHIN: ["t.py::a", "t.py::over"],
            Standing.REGRESSED: ["t.py::r"],
            Standing.WAIVED: ["t.py::w", "t.py::unknown"],
            Standing.ONCE: ["t.py::o"],
            Standing.CHANGED: ["t.py::c"],
            Standing.UNCONFIRMED: ["t.py::u"],
            Standing.WARNED: ["t.py::x"],
            Standing.NEW: [f"t.py::new_{number}" for number in range(12)],
        },
        entries={"t.py::w": WAIVED, "t.py::over": Entry(held=0, retained=0, expires=date(2027, 2, 28)), "t.py::a": ENTRY},
        stale=["t.py::gone"],
        outside=["../t.py::far"],
    ),
    "gate_no_file_at_all": lines(exists=False),
    "gate_no_file": lines(
        exists=False,
        standings={Standing.NEW: ["t.py::a"]},
        nearest=("linux-x86_64-cp312-glibc2.39-pymalloc", [("cp312", "cp311"), ("glibc2.39", "glibc2.36")]),
    ),
    "gate_written": lines(
        standings={Standing.ACCEPTED: ["t.py::test_more"], Standing.NEW: ["t.py::test_new"]},
        entries={"t.py::test_more": ENTRY},
        mode=Mode.ALL,
        changes=CHANGES,
        written=FILE,
    ),
    "gate_kept_in_ci": lines(
        standings={Standing.NEW: ["t.py::test_new"]},
        mode=Mode.NEW,
        changes=CHANGES[:1],
        kept="CI is set; commit what --rssguard-candidate=PATH writes, or ask for --rssguard-update=all",
        candidate="out/candidate.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_the_whole_text_is_as_in_the_golden_file(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("RSSGUARD_FIX_GOLDEN") == "1":
        path.write_text(TEXTS[name], encoding="utf-8")
    assert TEXTS[name] == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TEXTS)
def test_lines_fit_78_columns_but_for_commands_and_environments(name: str) -> None:
    long = [line for line in TEXTS[name].splitlines() if len(line) > 78]
    assert [line for line in long if not line.startswith(("accept ", "re-run ", "nearest ")) and KEY not in line] == []


def test_every_golden_file_is_looked_at() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == sorted(TEXTS)


@given(st.sampled_from(Metric), st.integers(0, 1 << 57), st.integers(0, 1 << 57), st.integers(1, 1 << 57))
def test_the_first_line_has_at_most_72_characters(metric: Metric, baseline: int, more: int, over: int) -> None:
    most = limit(baseline) + more
    excess = Excess(metric=metric, found=most + over, baseline=baseline, limit=most)
    assert len(f"RssRegression: {name_excess(excess)}") <= 72


@settings(deadline=None)
@given(st.integers(0, 1 << 40), st.integers(1, 1 << 40), st.lists(st.integers(0, 1 << 40), max_size=7).map(tuple))
def test_any_regression_can_be_told(base: int, over: int, samples: tuple[int, ...]) -> None:
    held = limit(base, samples) + over
    found = result(Outcome.RETURNED, held, malloc_live=held)
    told = text(found, Entry(held=base, retained=0, samples=samples), Confirmation(result=found))
    assert "confirmed yes: the body ran once more and held" in told


def test_a_warning_says_how_much_and_why_it_is_none() -> None:
    excess = Excess(metric=Metric.RETAINED, found=9 * MIB, baseline=0, limit=MIB)
    assert explain_unfailed([excess], why="because") == "9.00 MiB retained, baseline 0 B (limit 1.00 MiB): because"


def test_hints_that_apply_are_given() -> None:
    found = result(Outcome.LEAKED, 13 * MIB, malloc_live=13 * MIB, modules=tuple(f"numpy.part{each}" for each in range(9)))
    assert "hint      the body imported numpy" in text(found, ENTRY, Confirmation(result=found))


def test_a_second_run_confirms_what_is_over_the_limit_again() -> None:
    held = Excess(metric=Metric.HELD, found=20 * MIB, baseline=0, limit=13 * MIB)
    assert not Confirmation(result=HELD).confirms(held)
    assert Confirmation(result=HELD).confirms(Excess(metric=Metric.HELD, found=20 * MIB, baseline=0, limit=13 * MIB - 1))
    assert Confirmation(impossible="once").confirms(held)


def test_quiet_there_are_the_counts_and_what_was_written() -> None:
    assert lines(quiet=True, standings={Standing.WITHIN: ["a"], Standing.NEW: ["b"]}, stale=["c"]) == (
        f"1 compared with {FILE}: 1 within; 1 new; 1 stale\n"
    )
    assert lines(quiet=True, exists=False, written=FILE, mode=Mode.NEW, changes=CHANGES[:1]) == (
        f"no baseline of this environment, {KEY}: nothing compared\nwritten  {FILE}: 1 added\n"
    )


def test_a_file_that_was_just_begun_needs_no_advice() -> None:
    told = lines(exists=False, standings={Standing.NEW: ["a"]}, mode=Mode.NEW, changes=CHANGES[:1], written=FILE)
    assert "to begin one" not in told


def test_what_an_update_added_is_no_longer_announced_as_new() -> None:
    told = lines(standings={Standing.NEW: ["t.py::test_new"]}, mode=Mode.NEW, changes=CHANGES[:1], written=FILE)
    assert "to add them" not in told


def test_stale_entries_that_were_dropped_are_not_announced() -> None:
    told = lines(standings={}, mode=Mode.PRUNE, stale=["t.py::test_gone"], changes=CHANGES[-1:], written=FILE)
    assert "to drop them" not in told
    assert "nothing measured is in it; 1 stale" in told


def test_a_long_table_is_cut_and_counted() -> None:
    changes = [Change(nodeid=f"t.py::{number}", old=None, new=ENTRY) for number in range(50)]
    told = lines(mode=Mode.NEW, changes=changes, written=FILE)
    assert told.splitlines()[-1] == "and 10 more"
    assert lines(mode=Mode.NEW, written=FILE).splitlines()[-1] == f"written  {FILE}: nothing changed"
