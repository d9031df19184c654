"""The console script `pytest-rssguard`, also `python -m pytest_rssguard`: finds the command and runs it.

Exit codes: 0 fine, 1 a regression or something wrong (no such process, not permitted), 2 bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from pytest_rssguard.errors import RssGuardError, SettingError, UnreadableReportError, UnwritableError
from pytest_rssguard.version import VERSION

#: Modules of pytest_rssguard.commands, in the order in which `--help` lists them.
COMMANDS: Final[tuple[str, ...]] = ("explain", "doctor", "compare", "merge", "html")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-rssguard", description="What memory a process holds, and what it only retains."
    )
    parser.add_argument("--version", action="version", version=f"pytest-rssguard {VERSION}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"pytest_rssguard.commands.{name}")
        sub = commands.add_parser(module.NAME, help=module.SUMMARY, description=module.SUMMARY)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (sys.argv without the name) asks for; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except RssGuardError as error:
        print(f"pytest-rssguard {given.command}: {error}", file=sys.stderr)  # noqa: T201 - a command's own output
        return 2 if isinstance(error, (UnreadableReportError, UnwritableError, SettingError)) else 1
    except BrokenPipeError:  # the reader (head, less) has gone: nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
