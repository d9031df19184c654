"""`pytest-rssguard doctor`: what this machine can measure, and the proof that the guard can fail on it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

from pytest_rssguard.diagnosis import diagnose, render, to_json

NAME: Final = "doctor"
SUMMARY: Final = "Say what this machine can measure, plant leaked and retained memory, and require the right answers."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's own options."""
    parser.add_argument("--json", action="store_true", help="print all of it as JSON, sizes in bytes")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; return 0 where every planted pattern got the right answer, else 1."""
    diagnosis = diagnose()
    if arguments.json:
        sys.stdout.write(json.dumps(to_json(diagnosis), indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in render(diagnosis))
    return 0 if diagnosis.healthy else 1
