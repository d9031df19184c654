from __future__ import annotations

import json
import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.model import Outcome
from pytest_rssguard.record import Record, from_json
from pytest_rssguard.reporters.json_report import render_json
from pytest_rssguard.reporters.terminal import table
from pytest_rssguard.version import VERSION
from tests.builders import MIB, record

LEAKED = record("tests/test_a.py::test_leak", outcome=Outcome.LEAKED, growth=50 * MIB, held=50 * MIB, rss_settled=150 * MIB)
MASKED = record(
    "tests/test_a.py::test_hidden", outcome=Outcome.LEAKED, masked=True, growth=0, held=30 * MIB, retained=-30 * MIB
)
RETAINED = record("tests/test_a.py::test_kept", outcome=Outcome.RETAINED, growth=80_000_000, retained=80_000_000)
SKIPPED = record("tests/test_a.py::test_skipped", outcome=Outcome.NOT_JUDGED, growth=MIB, tolerance=512 << 10)
RETURNED = record("tests/test_a.py::test_fine", growth=-4096)


def lines(*records: Record, width: int = 80, quiet: bool = False) -> list[str]:
    return list(table(records, width=width, quiet=quiet))


def test_the_table_lists_the_worst_first_and_ends_with_a_count() -> None:
    assert lines(RETURNED, SKIPPED, RETAINED, MASKED, LEAKED, width=90) == [
        "verdict           held  retained    growth tolerance  test",
        "leaked        +50.0MiB       +0B  +50.0MiB   4.00MiB  tests/test_a.py::test_leak",
        "leaked*       +30.0MiB  -30.0MiB       +0B   4.00MiB  tests/test_a.py::test_hidden",
        "retained           +0B  +76.3MiB  +76.3MiB   4.00MiB  tests/test_a.py::test_kept",
        "not judged           -         -         -    512KiB  tests/test_a.py::test_skipped",
        "returned           +0B       +0B  -4.00KiB   4.00MiB  tests/test_a.py::test_fine",
        "* hidden: RSS itself stayed within the tolerance",
        "5 measured: 2 leaked, 1 retained, 1 not judged, 1 returned",
    ]


def test_of_one_outcome_the_largest_growth_comes_first() -> None:
    small = record("small", outcome=Outcome.GREW, growth=5 * MIB)
    large = record("large", outcome=Outcome.GREW, growth=9 * MIB)
    assert [line.rpartition(" ")[2] for line in lines(small, large)[1:3]] == ["large", "small"]


def test_a_quiet_table_is_its_count() -> None:
    assert lines(LEAKED, RETURNED, quiet=True) == ["2 measured: 1 leaked, 1 returned"]


def test_without_a_record_the_table_says_how_to_get_one() -> None:
    expected = ["no test was measured: mark one with @pytest.mark.rss_returns"]
    assert lines() == expected
    assert lines(quiet=True) == expected


def test_a_long_name_keeps_its_end() -> None:
    row = lines(record("tests/a/very/long/path/test_module.py::TestClass::test_name[value]"))[1]
    assert row == "returned           +0B       +0B       +0B   4.00MiB  …tClass::test_name[value]"


def test_on_a_narrow_terminal_names_keep_twenty_columns() -> None:
    row = lines(record("x" * 100), width=10)[1]
    assert row.endswith("  …" + "x" * 19)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            record,
            st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=120),
            outcome=st.sampled_from(Outcome),
            masked=st.booleans(),
            growth=st.integers(-(1 << 50), 1 << 50),
            held=st.integers(-(1 << 50), 1 << 50),
            retained=st.integers(-(1 << 50), 1 << 50),
            tolerance=st.integers(1, 1 << 50),
            regression=st.one_of(st.none(), st.builds(lambda size: {"baseline": size}, st.integers(0, 1 << 50))),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_rows_fit_80_columns_and_align(records: list[Record]) -> None:
    head, *rows, count = lines(*records)
    at = head.index("test")
    if any(record.regression for record in records):
        assert rows.pop().startswith("! over")
    if any(record.masked for record in records):
        assert rows.pop().startswith("* hidden")
    assert len(rows) == len(records)
    assert all(len(row) <= 80 for row in [*rows, count])
    assert all(row[at - 2 : at] == "  " and row[at] != " " for row in rows)
    counted = {name: int(number) for number, name in re.findall(r"(\d+) ([a-z ]+)", count)}
    assert counted.pop("measured", len(records)) == len(records)
    assert counted.pop("regressed", 0) == sum(record.regression is not None for record in records)
    assert counted == {outcome.value: found for outcome, found in Counter(each.outcome for each in records).items()}


def test_the_count_fits_80_columns_even_with_every_outcome_in_it() -> None:
    assert len(lines(*(record(outcome=outcome) for outcome in Outcome))[-1]) <= 80


def test_with_a_baseline_the_table_has_its_column_and_fits_80_columns() -> None:
    regressed = record(
        "tests/test_a.py::test_grown", growth=3 * MIB, held=3 * MIB, regression={"baseline": MIB, "limit": 2 * MIB}
    )
    assert lines(LEAKED, regressed, RETURNED) == [
        "verdict        held  retained    growth tolerance  baseline  test",
        "leaked     +50.0MiB       +0B  +50.0MiB   4.00MiB         -  …t_a.py::test_leak",
        "returned!  +3.00MiB       +0B  +3.00MiB   4.00MiB   1.00MiB  …_a.py::test_grown",
        "returned        +0B       +0B  -4.00KiB   4.00MiB         -  …t_a.py::test_fine",
        "! over the limit of the baseline",
        "3 measured: 1 leaked, 2 returned, 1 regressed",
    ]


def test_a_test_that_is_measured_and_not_judged_has_no_tolerance() -> None:
    assert lines(record("a", judged=False))[1:3] == [
        "returned           +0B       +0B       +0B         -  a",
        "tolerance -: measured, not judged",
    ]


def test_a_count_of_a_large_suite_names_every_outcome_in_80_columns() -> None:
    many = [record(outcome=outcome) for outcome in Outcome for _ in range(150)]
    (count,) = lines(*many, quiet=True)
    assert len(count) <= 80
    assert all(f"150 {outcome.value}" in count for outcome in Outcome)


def test_the_json_report_has_schema_version_environment_and_tests() -> None:
    text = render_json([LEAKED, RETURNED], {"python": "3.11.7", "page_size": 4096})
    report = json.loads(text)
    assert list(report) == ["schema", "version", "environment", "tests"]
    assert (report["schema"], report["version"]) == (1, VERSION)
    assert report["environment"] == {"python": "3.11.7", "page_size": 4096}
    assert [from_json(values) for values in report["tests"]] == [LEAKED, RETURNED]
    assert text.endswith("}\n")


def test_a_report_of_nothing_is_a_report() -> None:
    assert json.loads(render_json(iter(()), {}))["tests"] == []


def test_of_many_tests_the_table_shows_what_matters_and_who_grew_most() -> None:
    many = [record(f"t.py::test_{number:03}", growth=number * 4096) for number in range(100)]
    shown = lines(record("t.py::test_bad", outcome=Outcome.LEAKED, held=9 << 20, growth=9 << 20), *many)
    assert shown[1].startswith("leaked")
    assert shown[2].endswith("t.py::test_099")
    assert "… and 70 more that returned, with less growth: --rssguard-json has all" in shown
    at = shown.index("top growth: the process stayed so much bigger after")
    assert shown[at + 1] == "  +9.00MiB  t.py::test_bad"
    assert shown[at + 10] == "   +364KiB  t.py::test_091"
    assert shown[at + 11] == "101 measured: 1 leaked, 100 returned"
    assert all(len(line) <= 80 for line in shown)
