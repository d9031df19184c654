"""A report file read back: the JSON report's text to records. Trusts nothing in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pytest_rssguard.errors import UnreadableError, UnreadableReportError
from pytest_rssguard.json_values import array, integer, mapping, parse_object, shallow
from pytest_rssguard.record import SCHEMA, Record, from_json

#: A report of 100,000 tests has some 150 MiB.
LARGEST_FILE: Final = 256 << 20
_LEVELS: Final = 4
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One test run as its report has it: no two records have the same nodeid."""

    records: tuple[Record, ...]
    environment: Mapping[str, Any]
    version: str = ""


def parse_report(text: str | bytes) -> Run:
    """Return the run that `text`, a JSON report of schema 1, tells of.

    Raises UnreadableReportError with one line: what is wrong, and at which test.
    """
    try:
        return _run(parse_object(text, what="no JSON report"))
    except UnreadableReportError:
        raise
    except UnreadableError as error:
        raise UnreadableReportError(str(error)) from None


def read_report(path: Path) -> Run:
    """Return the run in the file `path`. Raises UnreadableReportError with one line that names the file."""
    return read_with(parse_report, path)


def read_with(parse: Callable[[bytes], _Parsed], path: Path) -> _Parsed:
    """Return what `parse` makes of the file `path`. Raises UnreadableReportError with one line that names the file."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UnreadableReportError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a NUL in the path
        raise UnreadableReportError(f"{str(path)!r}: cannot be read ({error})") from None
    if len(data) > LARGEST_FILE:
        raise UnreadableReportError(f"{path}: larger than {LARGEST_FILE >> 20} MiB, no report of ours is")
    try:
        return parse(data)
    except UnreadableReportError as error:
        raise UnreadableReportError(f"{path}: {error}") from None


def _run(values: Mapping[str, Any]) -> Run:
    try:
        schema = integer(values["schema"])
        if schema > SCHEMA:
            raise UnreadableReportError(
                f"schema {schema} is newer than {SCHEMA}, which this version reads: update pytest-rssguard"
            )
        if schema != SCHEMA:
            raise UnreadableReportError(f"schema {schema}: expected {SCHEMA}")
        environment = shallow(mapping(values["environment"]), levels=_LEVELS)
        tests = array(values["tests"])
        version = values.get("version")
    except KeyError as error:
        raise UnreadableReportError(f"no JSON report: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise UnreadableReportError(f"no JSON report: {error}") from None
    records = tuple(_record(test, at) for at, test in enumerate(tests, 1))
    seen: set[str] = set()
    for at, record in enumerate(records, 1):
        if record.nodeid in seen:
            raise UnreadableReportError(f"test {at}: a second record of {record.nodeid!r:.80}")
        seen.add(record.nodeid)
    return Run(records=records, environment=environment, version=version if isinstance(version, str) else "")


def _record(values: object, at: int) -> Record:
    try:
        return from_json(mapping(values))
    except TypeError as error:
        raise UnreadableReportError(f"test {at}: {error}") from None
    except UnreadableError as error:
        raise UnreadableReportError(f"test {at}: {error}") from None
