"""`pytest-rssguard merge SHARD… -o ALL.json`: reports of shards and logs of workers to one report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from pytest_rssguard.errors import UnreadableReportError
from pytest_rssguard.output_file import write_output
from pytest_rssguard.report_file import LARGEST_FILE
from pytest_rssguard.reporters.json_report import render_json
from pytest_rssguard.shards import Shard, merge_shards, parse_shard

NAME: Final = "merge"
SUMMARY: Final = "Merge JSON reports of shards and logs of workers (--rssguard-log) into one JSON report."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shards", metavar="SHARD", nargs="+", help="a JSON report, or a log of --rssguard-log")
    parser.add_argument("-o", "--output", metavar="ALL.json", required=True, help="the report to write, whole or not at all")


def run(arguments: argparse.Namespace) -> int:
    """Write the merged report; say on stderr what it lacks. Raises UnreadableReportError, UnwritableError."""
    merged = merge_shards({name: _read(Path(name)) for name in arguments.shards})
    for note in merged.notes:
        print(note, file=sys.stderr)  # noqa: T201 - a command's own output
    write_output(Path(arguments.output), render_json(merged.run.records, merged.run.environment))
    return 0


def _read(path: Path) -> Shard:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UnreadableReportError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a NUL in the path
        raise UnreadableReportError(f"{str(path)!r}: cannot be read ({error})") from None
    if len(data) > LARGEST_FILE:
        raise UnreadableReportError(f"{path}: larger than {LARGEST_FILE >> 20} MiB, no shard of ours is")
    try:
        return parse_shard(data)
    except UnreadableReportError as error:
        raise UnreadableReportError(f"{path}: {error}") from None
