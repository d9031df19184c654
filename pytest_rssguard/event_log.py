"""A log that survives a kill: one line of JSON an event, handed to the kernel at once.

After an OOM kill or a crashed worker it names the test that was running, and has the records of all before it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import pytest

from pytest_rssguard.environment import environment
from pytest_rssguard.record import SCHEMA
from pytest_rssguard.session import PROPERTY

_OPTION: Final = "--rssguard-log"


def log_path(given: str, worker: str | None) -> Path:
    """Return where the log of this process goes: with the worker's name before the suffix under xdist."""
    path = Path(given)
    return path.with_name(f"{path.stem}.{worker}{path.suffix}") if worker else path


class EventLog:
    """Writes the log of one process. Raises pytest.UsageError where the file cannot be written."""

    def __init__(self, given: str, worker: str | None) -> None:
        path = log_path(given, worker)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise pytest.UsageError(
                f"{_OPTION}={given}: cannot be written ({why}); expected a file in a folder that exists"
            ) from None
        self._last = ""
        self._write(json.dumps({"schema": SCHEMA, "environment": environment(), "worker": worker}))

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode()
        while data:
            data = data[os.write(self._file, data) :]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Write that a test begins."""
        self._last = ""
        self._write(json.dumps({"event": "start", "nodeid": nodeid}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write what was measured, as soon as it is known."""
        if report.when == "setup":
            return
        for name, value in report.user_properties:
            if name == PROPERTY and value != self._last:
                self._last = str(value)
                self._write(f'{{"event": "test", "record": {value}}}')

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Write that a test has ended, measured or not."""
        self._write(json.dumps({"event": "end", "nodeid": nodeid}))

    def pytest_unconfigure(self) -> None:
        """Close the file."""
        os.close(self._file)
