"""Gather records from the reports of this process or of all xdist workers, and hand them to the reporters."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from pathlib import Path

import pytest

from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.record import Record, loads
from pytest_rssguard.reporters.json_report import render_json
from pytest_rssguard.reporters.terminal import table
from pytest_rssguard.session import PROPERTY


class Reporting:
    """The controller's half: one record a test, the last attempt of each, in a block list that never needs 64 KiB."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lines: deque[str] = deque()
        self._json: Path | None = None
        if path := config.getoption("rssguard_json"):
            self._json = Path(path)
            check_writable(self._json, option="--rssguard-json")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the record that travels with the reports: with that of the teardown where the whole test was measured."""
        if report.when in {"call", "teardown"}:
            self._lines.extend(str(value) for name, value in report.user_properties if name == PROPERTY)

    def records(self) -> list[Record]:
        """Return one record a test: of reruns the last, in the order in which tests ended."""
        latest: dict[str, Record] = {}
        for line in self._lines:
            try:
                record = loads(line)
            except UnreadableError:
                continue  # somebody else's property of the same name
            latest.pop(record.nodeid, None)
            latest[record.nodeid] = record
        return list(latest.values())

    def pytest_sessionfinish(self) -> None:
        """Write the JSON report: whole, or not at all."""
        if self._json is not None:
            from pytest_rssguard.environment import environment

            write_whole(self._json, render_json(self.records(), environment()))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if self._config.getoption("rssguard_report"):
            records = self.records()
            quiet = self._config.get_verbosity() < 0
            if not quiet:
                terminalreporter.write_sep("=", "rssguard")
            for line in table(records, width=terminalreporter._tw.fullwidth, quiet=quiet):  # noqa: SLF001
                terminalreporter.write_line(line)


def check_writable(path: Path, *, option: str) -> None:
    """Raise a usage error now, before any test runs, if `path` cannot be written later."""
    folder = path.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "is a directory")
        folder.mkdir(parents=False, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".rssguard-")
        os.close(descriptor)
        Path(name).unlink()
    except OSError as error:
        raise pytest.UsageError(
            f"{option}={path}: cannot be written ({error.strerror}); expected a file in a folder that exists"
        ) from None


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that no reader ever sees half of it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".rssguard-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
