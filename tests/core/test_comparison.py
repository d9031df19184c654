from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.comparison import Kind, compare_runs, require_same_environment
from pytest_rssguard.errors import UnreadableReportError
from pytest_rssguard.gate import Sizes
from pytest_rssguard.model import Outcome
from pytest_rssguard.record import Record
from pytest_rssguard.report_file import Run
from pytest_rssguard.reporters.comparison_text import comparison_lines, count_kinds, render_comparison_md
from tests.builders import MIB, record

SIZES = st.integers(-(1 << 34), 1 << 34)
KEY = "linux-x86_64-cp311-glibc2.36-pymalloc"


def run(*records: Record, key: str | None = KEY) -> Run:
    return Run(records=records, environment={} if key is None else {"key": key})


BASE = run(
    record("t.py::same", held=MIB),
    record("t.py::leaks", held=MIB),
    record("t.py::keeps", retained=0),
    record("t.py::better", held=30 * MIB),
    record("t.py::gone"),
    record("t.py::odd", outcome=Outcome.NOT_JUDGED),
)
HEAD = run(
    record("t.py::same", held=2 * MIB),
    record("t.py::leaks", held=9 * MIB),
    record("t.py::keeps", retained=3 * MIB),
    record("t.py::better"),
    record("t.py::new|`x`\n", held=90 * MIB),
    record("t.py::odd"),
)


def test_each_test_of_both_runs_has_a_row_the_worst_first() -> None:
    rows = compare_runs(BASE, HEAD)
    assert [(row.nodeid.partition("::")[2], row.kind.value) for row in rows] == [
        ("keeps", "regressed"), ("leaks", "regressed"), ("odd", "unknown"), ("better", "improved"),
        ("new|`x`\n", "new"), ("gone", "gone"), ("same", "same"),
    ]  # fmt: skip
    assert rows[1].base == Sizes(held=MIB, retained=0)
    assert rows[1].excesses[0].limit == 2 * MIB
    assert rows[2].base is None


def test_the_table_shows_what_differs() -> None:
    assert list(comparison_lines(compare_runs(BASE, HEAD))) == [
        "              held, base > head retained, base > head    limit  test",
        "regressed               0B > 0B          0B > 3.00MiB  1.00MiB  t.py::keeps",
        "regressed     1.00MiB > 9.00MiB               0B > 0B  2.00MiB  t.py::leaks",
        "unknown                  - > 0B                - > 0B        -  t.py::odd",
        "improved           30.0MiB > 0B               0B > 0B        -  t.py::better",
        "7 compared: 2 regressed, 1 unknown, 1 improved, 1 new, 1 gone, 1 same",
    ]
    assert list(comparison_lines(compare_runs(BASE, BASE)))[-1] == "6 compared: 1 unknown, 5 same"
    assert list(comparison_lines(())) == ["0 compared: nothing measured in either run"]


def test_markdown_has_a_hidden_first_line_and_the_result_next() -> None:
    text = render_comparison_md(compare_runs(BASE, HEAD), base="main|.json", head="head`s\n.json")
    assert text.splitlines()[:5] == [
        "<!-- pytest-rssguard-compare -->",
        "**Memory regressed**: 2 regressed, 1 unknown, 1 improved, 1 new, 1 gone, 1 same",
        "",
        "| | test | held, `main\\|.json` → `head's .json` | retained | limit |",
        "|---|---|---:|---:|---:|",
    ]
    assert "| **regressed** | `t.py::leaks` | 1.00MiB > 9.00MiB | 0B > 0B | held 2.00MiB |" in text
    assert "| unknown | `t.py::odd` | - > 0B | - > 0B |  |" in text
    same = render_comparison_md(compare_runs(HEAD, HEAD), base="a", head="b")
    assert same == "<!-- pytest-rssguard-compare -->\n**Memory held**: 6 same\n"


def test_long_tables_are_cut_and_counted() -> None:
    names = [f"t.py::{number:03}" for number in range(203)]
    rows = compare_runs(run(*map(record, names)), run(*(record(name, held=9 * MIB) for name in names)))
    assert list(comparison_lines(rows))[-2:] == ["and 3 more", "203 compared: 203 regressed"]
    assert render_comparison_md(rows, base="a", head="b").endswith("\n\n3 more.\n")


@settings(deadline=None)
@given(SIZES, SIZES, SIZES, SIZES)
def test_a_run_against_itself_is_the_same_and_less_never_regresses(held: int, kept: int, less: int, fewer: int) -> None:
    base = run(record(held=held, retained=kept))
    assert compare_runs(base, base)[0].kind is Kind.SAME
    head = run(record(held=held - abs(less), retained=kept - abs(fewer)))
    assert compare_runs(base, head)[0].kind in {Kind.SAME, Kind.IMPROVED}


def test_samples_of_base_widen_the_limit() -> None:
    rounds = tuple({"growth": 0, "held": size * MIB, "retained": 0} for size in (1, 3, 5, 7, 9))
    base, head = run(record(held=MIB, rounds=rounds)), run(record(held=9 * MIB))
    assert count_kinds(compare_runs(base, head)) == "1 same"
    assert count_kinds(compare_runs(run(record(held=MIB, rounds=rounds[:1])), head)) == "1 regressed"


def test_runs_of_different_environments_are_not_compared() -> None:
    other = run(key="linux-x86_64-cp311-glibc2.39-pymalloc")
    with pytest.raises(UnreadableReportError) as refused:
        require_same_environment({"a.json": run(), "b.json": other})
    assert str(refused.value) == (
        "a.json and b.json are of different environments, not to be compared: glibc2.36 against glibc2.39"
    )


@pytest.mark.parametrize("environment", [{}, {"key": 3}, {"key": KEY}])
def test_an_environment_that_is_not_told_differs_from_none(environment: dict[str, Any]) -> None:
    require_same_environment({"a": run(), "b": Run(records=(), environment=environment), "c": run()})
