"""`pytest-rssguard html REPORT.json -o OUT.html`: the page of a report that was written earlier."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from pytest_rssguard.output_file import write_output
from pytest_rssguard.report_file import read_report
from pytest_rssguard.reporters.html import render_html

NAME: Final = "html"
SUMMARY: Final = "Write a JSON report as one HTML page that needs no network."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("report", type=Path, metavar="REPORT.json", help="what --rssguard-json wrote")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.html", required=True, help="the page to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the page. Returns 0; raises UnreadableReportError or UnwritableError (exit code 2)."""
    report = read_report(arguments.report)
    write_output(arguments.output, render_html(report.records, report.environment))
    sys.stdout.write(f"{arguments.output}: {len(report.records)} tests\n")
    return 0
