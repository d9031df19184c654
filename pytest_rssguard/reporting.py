"""Gather records from the reports of this process or of all xdist workers, and hand them to the reporters."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.output_file import append, try_to_write, write_whole
from pytest_rssguard.record import Record, loads
from pytest_rssguard.reporters.terminal import table
from pytest_rssguard.session import PROPERTY
from pytest_rssguard.source_link import source_base

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


class Reporting:
    """The controller's half: one record a test, the last attempt of each, in a block list that never needs 64 KiB."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lines: deque[str] = deque()
        self._paths: dict[str, Path] = {}
        for name in ("json", "md", "html"):
            if path := config.getoption(f"rssguard_{name}"):
                self._paths[name] = Path(path)
                check_writable(self._paths[name], option=f"--rssguard-{name}")
        self._problems: list[str] = []
        self._step_summary: Path | None = None
        if config.getoption("rssguard_step_summary") and (path := os.environ.get(_STEP_SUMMARY)):
            self._step_summary = Path(path)
            check_appendable(self._step_summary)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the record that travels with the reports: with that of the teardown where the whole test was measured."""
        if report.when in {"call", "teardown"}:
            for name, value in report.user_properties:
                if name == PROPERTY and not (self._lines and self._lines[-1] == value):
                    self._lines.append(str(value))

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

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write each report that is asked for: whole, or not at all."""
        if not self._paths and self._step_summary is None:
            return
        records, facts = self.records(), _environment()
        for name, path in self._paths.items():
            try:
                write_whole(path, self._render(name, records, facts))
            except OSError as error:
                self._complain(session, f"--rssguard-{name}={path}", error)
        if self._step_summary is not None:
            try:
                append(self._step_summary, self._render("md", records, facts))
            except OSError as error:
                self._complain(session, f"--rssguard-step-summary: {self._step_summary}", error)

    def _complain(self, session: pytest.Session, what: str, error: OSError) -> None:
        """Say in the summary that a path which could be written before the tests no longer can; fail the run."""
        self._problems.append(f"rssguard: {what}: could not be written ({error.strerror})")
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def _render(self, name: str, records: list[Record], facts: dict[str, Any]) -> str:
        if name == "json":
            from pytest_rssguard.reporters.json_report import render_json

            return render_json(records, facts)
        if name == "html":
            from pytest_rssguard.reporters.html import render_html

            return render_html(records, facts)
        from pytest_rssguard.reporters.markdown import render_markdown

        return render_markdown(records, facts, source=source_base(os.environ, rootdir=str(self._config.rootpath)))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if self._config.getoption("rssguard_report"):
            records = self.records()
            quiet = self._config.get_verbosity() < 0
            if not quiet:
                terminalreporter.write_sep("=", "rssguard")
            for line in table(records, width=terminalreporter._tw.fullwidth, quiet=quiet):  # noqa: SLF001
                terminalreporter.write_line(line)
        if self._config.getoption("rssguard_step_summary") and self._step_summary is None:
            terminalreporter.write_line(f"rssguard: ${_STEP_SUMMARY} is not set, so there is no step summary")
        for problem in self._problems:
            terminalreporter.write_line(problem, red=True)


def _environment() -> dict[str, Any]:
    from pytest_rssguard.environment import environment

    return environment()


def check_appendable(path: Path) -> None:
    """Raise a usage error now if nothing can be appended to `path` later."""
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise pytest.UsageError(
            f"--rssguard-step-summary: ${_STEP_SUMMARY}={path}: cannot be written ({why}); expected a file"
        ) from None


def check_writable(path: Path, *, option: str) -> None:
    """Raise a usage error now, before any test runs, if `path` cannot be written later."""
    try:
        try_to_write(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise pytest.UsageError(
            f"{option}={path}: cannot be written ({why}); expected a file in a folder that exists"
        ) from None
