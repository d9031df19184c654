from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard import report_file
from pytest_rssguard.errors import UnreadableReportError
from pytest_rssguard.model import Outcome
from pytest_rssguard.report_file import parse_report, read_report
from pytest_rssguard.reporters.json_report import render_json
from pytest_rssguard.version import VERSION
from tests.builders import MIB, record

RECORDS = (record("a", outcome=Outcome.LEAKED, growth=MIB, held=MIB), record("b"))
ENVIRONMENT = {"key": "linux-x86_64-cp311-glibc2.36-pymalloc", "page_size": 4096, "capabilities": {"smaps": True}}
TEXT = render_json(RECORDS, ENVIRONMENT)


def refusal(text: str | bytes) -> str:
    with pytest.raises(UnreadableReportError) as refused:
        parse_report(text)
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) < 300
    return line


def changed(**changes: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps({**json.loads(TEXT), **changes})


def test_a_report_comes_back() -> None:
    run = parse_report(TEXT)
    assert (run.records, run.environment, run.version) == (RECORDS, ENVIRONMENT, VERSION)
    assert parse_report(TEXT.encode()) == run


def test_a_newer_schema_is_refused_with_what_to_do() -> None:
    assert refusal(changed(schema=2)) == "schema 2 is newer than 1, which this version reads: update pytest-rssguard"


def test_a_report_without_the_newer_parts_is_read() -> None:
    values = json.loads(TEXT)
    for test in values["tests"]:
        for name in ("pins", "released", "mappings", "heap_map", "regression", "file", "line", "text"):
            del test[name]
    assert parse_report(json.dumps(values)).records == RECORDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        "{}",
        b"\xff\xfe\x00",
        b"\x00" * 100,
        "[" * 500_000,
        '{"schema":' * 100_000,
        TEXT[: len(TEXT) // 2],
        changed(schema="1"),
        changed(schema=True),
        changed(schema=0),
        changed(schema=None),
        changed(tests={}),
        changed(tests=None),
        changed(tests=[7]),
        changed(tests=[None]),
        changed(tests=[{}]),
        changed(environment=[]),
        changed(environment={"a": {"b": {"c": {"d": {"e": 1}}}}}),
        changed(environment={"a": 1 << 80}),
        TEXT.replace("4096", "1e999", 1),
        TEXT.replace("4096", "NaN", 1),
        TEXT.replace("4096", "9" * 5000, 1),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(text: str | bytes) -> None:
    assert refusal(text)


def test_the_test_at_fault_is_named() -> None:
    tests = json.loads(TEXT)["tests"]
    tests[1]["growth"] = "much"
    assert refusal(changed(tests=tests)) == "test 2: record: growth: expected an integer, got 'much'"


def test_two_records_of_one_test_are_refused() -> None:
    assert refusal(changed(tests=json.loads(TEXT)["tests"] * 2)) == "test 3: a second record of 'a'"


def test_a_file_is_named_in_its_refusal(tmp_path: Path) -> None:
    missing, folder, broken = tmp_path / "none.json", tmp_path, tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    for path in (missing, folder, broken):
        with pytest.raises(UnreadableReportError) as refused:
            read_report(path)
        assert str(refused.value).startswith(f"{path}: ")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(UnreadableReportError, match="cannot be read"):
        read_report(Path("a\0b"))


def test_a_file_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_file, "LARGEST_FILE", 1 << 20)
    with pytest.raises(UnreadableReportError, match="larger than 1 MiB"):
        read_report(Path("/dev/zero"))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(tuple(json.loads(TEXT))), JSON, max_size=3),
    st.dictionaries(st.sampled_from(tuple(RECORDS[0].to_json())), JSON, max_size=3),
)
def test_any_values_are_read_or_refused(top: dict[str, Any], test: dict[str, Any]) -> None:
    tests = json.loads(TEXT)["tests"]
    tests[0].update(test)
    text = json.dumps({**json.loads(TEXT), "tests": tests, **top})
    try:
        run = parse_report(text)
    except UnreadableReportError as error:
        assert "\n" not in str(error)  # noqa: PT017 - not every text is refused
        return
    assert parse_report(render_json(run.records, run.environment)).records == run.records


@settings(deadline=None)
@given(at=st.integers(0, 10_000), noise=st.binary(max_size=6), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused(at: int, noise: bytes, cut: bool) -> None:
    data = TEXT.encode()
    at %= len(data)
    damaged = data[:at] + noise + (b"" if cut else data[at + len(noise) :])
    try:
        parse_report(damaged)
    except UnreadableReportError as error:
        assert "\n" not in str(error)  # noqa: PT017 - not every text is refused
