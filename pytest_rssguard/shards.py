"""Parts of one run put together: JSON reports of shards, and the JSON lines that --rssguard-log leaves. Pure.

A log has a head, {"schema": 1, "environment": …, "worker": …}, then a line an event: {"event": "start", "nodeid": …},
{"event": "test", "record": …} for a measured test, {"event": "end", "nodeid": …}. What was killed may have left its last
line unfinished.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_rssguard.comparison import require_same_environment
from pytest_rssguard.errors import UnreadableError, UnreadableReportError
from pytest_rssguard.json_values import integer, mapping, parse_object, shallow, text
from pytest_rssguard.record import SCHEMA, Record, from_json
from pytest_rssguard.report_file import Run, parse_report

_LEVELS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One part: its run, the tests that began there and did not end, and whether its last line was cut off."""

    run: Run
    unfinished: tuple[str, ...] = ()
    cut: bool = False


def parse_shard(data: bytes) -> Shard:
    """Return the shard in `data`: a report, or a log. Raises UnreadableReportError, one line."""
    head, separator, rest = data.partition(b"\n")
    try:
        values = parse_object(head, what="line 1")
    except UnreadableError:
        return Shard(run=parse_report(data))
    if "tests" in values:
        return Shard(run=parse_report(data))
    if not separator:
        raise UnreadableReportError("line 1: neither a report nor a log with its head")
    return _log(_head(values), rest)


def _head(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        schema = integer(values["schema"])
        environment = values["environment"]
        found = shallow(mapping({} if environment is None else environment), levels=_LEVELS)
    except KeyError as error:
        raise UnreadableReportError(f"line 1: no head of a log: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise UnreadableReportError(f"line 1: no head of a log: {error}") from None
    if schema != SCHEMA:
        advice = "is newer than what this version reads: update pytest-rssguard" if schema > SCHEMA else f"expected {SCHEMA}"
        raise UnreadableReportError(f"line 1: schema {schema}: {advice}")
    return dict(found)


def _log(environment: Mapping[str, Any], data: bytes) -> Shard:
    records: dict[str, Record] = {}
    open_tests: dict[str, None] = {}
    lines = data.split(b"\n")
    last = lines.pop()
    cut = False
    for number, line in enumerate([*lines, last] if last else lines, 2):
        try:
            _take(parse_object(line, what="no event"), records, open_tests)
        except (UnreadableError, TypeError, ValueError, KeyError) as error:
            if last and number == len(lines) + 2:
                cut = True
                break
            what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
            raise UnreadableReportError(f"line {number}: {what}") from None
    run = Run(records=tuple(records.values()), environment=environment)
    return Shard(run=run, unfinished=tuple(open_tests), cut=cut)


def _take(event: Mapping[str, Any], records: dict[str, Record], open_tests: dict[str, None]) -> None:
    """Take in one event; those that a later version adds are left alone."""
    name = text(event["event"])
    if name == "start":
        open_tests[text(event["nodeid"])] = None
    elif name == "test":
        record = from_json(mapping(event["record"]))
        records.pop(record.nodeid, None)
        records[record.nodeid] = record
    elif name == "end":
        open_tests.pop(text(event["nodeid"]), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """One run of all shards, and what has to be said of it, a line each."""

    run: Run
    notes: tuple[str, ...]


def merge_shards(shards: Mapping[str, Shard]) -> Merged:
    """Return the run of all `shards`, by the name of their file; of two records of one test the later file's stays.

    Raises UnreadableReportError where they are of different environments.
    """
    require_same_environment({name: shard.run for name, shard in shards.items()})
    records: dict[str, Record] = {}
    twice: dict[str, str] = {}
    for name, shard in shards.items():
        for record in shard.run.records:
            if record.nodeid in records:
                twice[record.nodeid] = name
                del records[record.nodeid]
            records[record.nodeid] = record
    environment = next((shard.run.environment for shard in shards.values() if shard.run.environment), {})
    run = Run(records=tuple(records.values()), environment=environment)
    return Merged(run=run, notes=tuple(_notes(shards, twice)))


def _notes(shards: Mapping[str, Shard], twice: Mapping[str, str]) -> Iterator[str]:
    for name, shard in shards.items():
        if shard.cut:
            yield f"{name}: the last line is cut off, as a killed process leaves it; it is left out"
        for nodeid in shard.unfinished:
            yield f"{name}: {nodeid} began and did not end: its process was killed while it ran"
    for nodeid, name in twice.items():
        yield f"{nodeid}: in more than one shard; that of {name} stays"
