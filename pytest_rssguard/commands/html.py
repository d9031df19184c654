"""`pytest-rssguard html REPORT.json -o OUT.html`: the page of a report that was written earlier."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from pytest_rssguard.errors import SettingError
from pytest_rssguard.output_file import write_whole
from pytest_rssguard.report_file import read_report
from pytest_rssguard.reporters.html import render_html

NAME: Final = "html"
SUMMARY: Final = "Write a JSON report as one HTML page that needs no network."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("report", type=Path, metavar="REPORT.json", help="what --rssguard-json wrote")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.html", required=True, help="the page to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the page. Returns 0; raises UnreadableReportError or SettingError (exit code 2)."""
    run_ = read_report(arguments.report)
    try:
        write_whole(arguments.output, render_html(run_.records, run_.environment))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingError(
            name="--output",
            given=str(arguments.output),
            accepted="a file in a folder that exists",
            advice=f"it cannot be written: {why}",
        ) from None
    sys.stdout.write(f"{arguments.output}: {len(run_.records)} tests\n")
    return 0
