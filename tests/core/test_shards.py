from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_rssguard.errors import UnreadableReportError
from pytest_rssguard.record import Record
from pytest_rssguard.report_file import Run
from pytest_rssguard.reporters.json_report import render_json
from pytest_rssguard.shards import Shard, merge_shards, parse_shard
from tests.builders import MIB, record

ENVIRONMENT: Final = {"key": "linux-x86_64-cp311-glibc2.36-pymalloc", "page_size": 4096}
HEAD: Final = json.dumps({"schema": 1, "environment": ENVIRONMENT, "worker": "gw0"})


def start(nodeid: str) -> str:
    return json.dumps({"event": "start", "nodeid": nodeid})


def end(nodeid: str) -> str:
    return json.dumps({"event": "end", "nodeid": nodeid})


def ended(found: Record) -> str:
    return json.dumps({"event": "test", "record": found.to_json()})


def log(*events: str, head: str = HEAD) -> bytes:
    return "".join(f"{line}\n" for line in (head, *events)).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableReportError) as refused:
        parse_shard(data)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    return str(refused.value)


def test_a_report_is_a_shard_however_it_is_laid_out() -> None:
    text = render_json([record("a"), record("b")], ENVIRONMENT)
    for data in (text.encode(), json.dumps(json.loads(text)).encode()):
        shard = parse_shard(data)
        assert shard.run.records == (record("a"), record("b"))
        assert (shard.run.environment, shard.unfinished, shard.cut) == (ENVIRONMENT, (), False)


def test_a_log_is_a_shard_of_what_was_measured_and_knows_what_did_not_end() -> None:
    a, b = record("a", held=MIB), record("b")
    events = (start("a"), ended(record("a")), end("a"), start("b"), ended(b), end("b"), start("plain"), end("plain"))
    shard = parse_shard(log(*events, start("a"), ended(a), end("a"), start("c"), start("d"), ended(record("d"))))
    assert shard == Shard(run=Run(records=(b, a, record("d")), environment=ENVIRONMENT), unfinished=("c", "d"))


def test_a_log_may_end_in_the_middle_of_a_line() -> None:
    whole = log(start("a"), ended(record("a")), start("b"))
    last = whole.rindex(b"{")
    for length in range(last + 1, len(whole)):
        shard = parse_shard(whole[:length])
        assert shard.run.records == (record("a"),)
        assert shard.cut == (length < len(whole) - 1)


def test_a_log_of_nothing_is_a_shard_of_nothing() -> None:
    assert parse_shard(log()) == Shard(run=Run(records=(), environment=ENVIRONMENT))
    assert parse_shard(log(head='{"schema": 1, "environment": null}')).run.environment == {}


def test_events_of_later_versions_are_left_alone() -> None:
    assert parse_shard(log('{"event": "pause", "nodeid": 3}')) == parse_shard(log())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "no JSON report: "),
        (b"\xff\xfe", "no JSON report: "),
        (b"nonsense\n", "no JSON report: "),
        (b"[" * 90_000, "no JSON report: nested too deep"),
        (b'{"schema": 1}', "line 1: neither a report nor a log with its head"),
        (b'{"schema": 1}\n', "line 1: no head of a log: environment is missing"),
        (b'{"environment": {}}\n', "line 1: no head of a log: schema is missing"),
        (b'{"schema": "1", "environment": {}}\n', "line 1: no head of a log: expected an integer, got '1'"),
        (b'{"schema": 1, "environment": []}\n', "line 1: no head of a log: expected an object, got list"),
        (b'{"schema": 1, "environment": {"a": [[[[[1]]]]]}}\n', "line 1: no head of a log: nested too deep"),
        (b'{"schema": 2, "environment": {}}\n', "line 1: schema 2: is newer than what this version reads: update"),
        (b'{"schema": 0, "environment": {}}\n', "line 1: schema 0: expected 1"),
        (b'{"schema": 2, "tests": []}\n', "schema 2 is newer than 1"),
        (log("", start("a")), "line 2: no event: "),
        (log("{"), "line 2: no event: "),
        (log(start("a"), "[]"), "line 3: no event: expected an object, got list"),
        (log('{"nodeid": "a"}'), "line 2: event is missing"),
        (log('{"event": 3}'), "line 2: expected a text, got 3"),
        (log('{"event": "start"}'), "line 2: nodeid is missing"),
        (log('{"event": "start", "nodeid": 3}'), "line 2: expected a text, got 3"),
        (log('{"event": "end"}'), "line 2: nodeid is missing"),
        (log('{"event": "test"}'), "line 2: record is missing"),
        (log('{"event": "test", "record": 3}'), "line 2: expected an object, got 3"),
        (log('{"event": "test", "record": {}}'), "line 2: record: nodeid is missing"),
        (log('{"event": NaN}'), "line 2: no event: not a JSON number: NaN"),
    ],
)
def test_what_is_no_shard_is_refused_in_one_line(data: bytes, expected: str) -> None:
    assert refusal(data).startswith(expected)


WHOLE = log(start("a"), ended(record("a")), start("b"))


@settings(deadline=None)
@given(st.integers(0, len(WHOLE)), st.integers(0, 30), st.binary(max_size=6))
@example(0, len(WHOLE), b"")
@example(len(HEAD) + 1, 0, b"\xff")
def test_a_damaged_log_is_read_or_refused(at: int, length: int, put: bytes) -> None:
    try:
        parse_shard(WHOLE[:at] + put + WHOLE[at + length :])
    except UnreadableReportError as error:
        line = str(error)
    else:
        line = ""
    assert "\n" not in line


@settings(deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
        max_leaves=8,
    ),
    st.sampled_from(("event", "nodeid", "record")),
)
def test_any_json_in_an_event_is_read_or_refused(value: object, place: str) -> None:
    for event in ({"event": "start", "nodeid": "a"}, {"event": "test", "record": record("a").to_json()}):
        changed: dict[str, Any] = {**event, place: value}
        try:
            parse_shard(log(json.dumps(changed)))
        except UnreadableReportError as error:
            line = str(error)
        else:
            line = ""
        assert "\n" not in line


def shard(*records: Record, environment: dict[str, Any] | None = None, **changes: Any) -> Shard:  # noqa: ANN401 - fields
    return Shard(run=Run(records=records, environment=ENVIRONMENT if environment is None else environment), **changes)


def test_shards_become_one_run() -> None:
    merged = merge_shards({"a": shard(environment={}), "b": shard(record("t1")), "c": shard(record("t2"), record("t3"))})
    assert merged.run == Run(records=(record("t1"), record("t2"), record("t3")), environment=ENVIRONMENT)
    assert merged.notes == ()
    assert merge_shards({"a": shard(environment={})}).run.environment == {}


def test_of_two_records_of_one_test_the_later_stays_and_it_is_said() -> None:
    merged = merge_shards({"a": shard(record("t1", held=1), record("t2")), "b": shard(record("t1", held=2))})
    assert merged.run.records == (record("t2"), record("t1", held=2))
    assert merged.notes == ("t1: in more than one shard; that of b stays",)


def test_what_is_missing_is_said() -> None:
    merged = merge_shards({"a": shard(record("t1"), unfinished=("t2", "t3"), cut=True), "b": shard(record("t3"))})
    assert merged.notes == (
        "a: the last line is cut off, as a killed process leaves it; it is left out",
        "a: t2 began and did not end: its process was killed while it ran",
        "a: t3 began and did not end: its process was killed while it ran",
    )


def test_shards_of_different_environments_are_not_merged() -> None:
    other = shard(environment={"key": "linux-x86_64-cp312-glibc2.36-pymalloc"})
    with pytest.raises(UnreadableReportError, match=r"a and b are of different environments.*cp311 against cp312"):
        merge_shards({"a": shard(), "b": other})
