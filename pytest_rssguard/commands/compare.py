"""`pytest-rssguard compare BASE.json HEAD.json`: two runs on one machine, before and after a change."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from pytest_rssguard.comparison import Kind, compare_runs, require_same_environment
from pytest_rssguard.report_file import read_report
from pytest_rssguard.reporters.comparison_text import comparison_lines, render_comparison_md

NAME: Final = "compare"
SUMMARY: Final = "Compare two JSON reports, base against head; exit 1 where head has a regression."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("base", metavar="BASE.json", help="the report of the run before the change")
    parser.add_argument("head", metavar="HEAD.json", help="the report of the run after it")
    parser.add_argument("--md", action="store_true", help="print Markdown, as for $GITHUB_STEP_SUMMARY or a comment")


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison; return 1 if a test regressed. Raises UnreadableReportError."""
    base, head = read_report(Path(arguments.base)), read_report(Path(arguments.head))
    require_same_environment({arguments.base: base, arguments.head: head})
    rows = compare_runs(base, head)
    if arguments.md:
        text = render_comparison_md(rows, base=Path(arguments.base).name, head=Path(arguments.head).name)
    else:
        text = "\n".join(comparison_lines(rows)) + "\n"
    sys.stdout.write(text)
    return 1 if any(row.kind is Kind.REGRESSED for row in rows) else 0
