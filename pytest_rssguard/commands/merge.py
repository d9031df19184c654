"""`pytest-rssguard merge SHARD… -o ALL.json`: reports of shards and logs of workers to one report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from pytest_rssguard.output_file import write_output
from pytest_rssguard.report_file import read_with
from pytest_rssguard.reporters.json_report import render_json
from pytest_rssguard.shards import merge_shards, parse_shard

NAME: Final = "merge"
SUMMARY: Final = "Merge JSON reports of shards and logs of workers (--rssguard-log) into one JSON report."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shards", metavar="SHARD", nargs="+", help="a JSON report, or a log of --rssguard-log")
    parser.add_argument("-o", "--output", metavar="ALL.json", required=True, help="the report to write, whole or not at all")


def run(arguments: argparse.Namespace) -> int:
    """Write the merged report; say on stderr what it lacks. Raises UnreadableReportError, UnwritableError."""
    merged = merge_shards({name: read_with(parse_shard, Path(name)) for name in arguments.shards})
    for note in merged.notes:
        print(note, file=sys.stderr)  # noqa: T201 - a command's own output
    write_output(Path(arguments.output), render_json(merged.run.records, merged.run.environment))
    return 0
