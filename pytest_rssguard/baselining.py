"""The regression gate in the process that sees all tests: notices in the summary, and the only writer of baselines."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_rssguard.baseline import Baseline, Entry, dump_baseline, may_stand
from pytest_rssguard.checkpoint import Checkpoint, Place
from pytest_rssguard.errors import SettingError, UnreadableError
from pytest_rssguard.gate import Change, Mode, Standing, find_nearest, make_entry, update
from pytest_rssguard.output_file import write_whole
from pytest_rssguard.record import Record, loads
from pytest_rssguard.reporters.gate_text import GateRun, gate_lines
from pytest_rssguard.reporting import check_writable
from pytest_rssguard.session import PROPERTY, STANDING

_UNSET: Final = {"", "0", "false", "no", "off"}
_DESELECTED: Final = "rssguard_deselected"
_CI: Final = "CI is set; commit what --rssguard-candidate=PATH writes, or ask for --rssguard-update=all"
#: Options that leave tests out, by what they are called.
_SELECTING: Final = (
    ("keyword", "-k"), ("markexpr", "-m"), ("lf", "--lf"), ("stepwise", "--stepwise"), ("deselect", "--deselect"),
    ("ignore", "--ignore"), ("ignore_glob", "--ignore-glob"), ("collectonly", "--collect-only"), ("setuponly", "--setup-only"),
    ("setupplan", "--setup-plan"), ("pyargs", "--pyargs"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phase:
    """What one report said of one test."""

    nodeid: str
    when: str
    passed: bool
    failed: bool
    standing: Standing | None
    record: str


class Deselection:
    """Counts deselected tests; from an xdist worker, the controller hears of them when the worker ends."""

    def __init__(self) -> None:
        self.count = 0

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count."""
        self.count += len(items)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Send the count to the controller."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_DESELECTED] = self.count


class Baselining:
    """The controller's half of the gate."""

    def __init__(self, config: pytest.Config, checkpoint: Checkpoint) -> None:
        self._config = config
        self._checkpoint = checkpoint
        self._phases: deque[_Phase] = deque()
        self._deselection = Deselection()
        self._partial = ""
        self._run: GateRun | None = None
        self._baseline = checkpoint.baseline  # raises here, before any test runs
        candidate = config.getoption("rssguard_candidate")
        self._candidate = config.invocation_params.dir / candidate if candidate else None
        self._in_ci = os.environ.get("CI", "").lower() not in _UNSET
        self._writes = checkpoint.mode is Mode.ALL or (checkpoint.mode is not None and not self._in_ci)
        if self._writes:
            _make_folder(checkpoint.place)
            check_writable(checkpoint.place.path, option="--rssguard-baseline")
        if self._candidate is not None:
            check_writable(self._candidate, option="--rssguard-candidate")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what travels with the reports."""
        found = {str(name): str(value) for name, value in report.user_properties if name in {PROPERTY, STANDING}}
        standing = found.get(STANDING)
        self._phases.append(
            _Phase(
                nodeid=report.nodeid, when=str(report.when), passed=report.outcome == "passed",
                failed=report.outcome == "failed", record=found.get(PROPERTY, "") if standing else "",
                standing=Standing(standing) if standing in set(Standing) else None,
            )
        )  # fmt: skip

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notice what could not be collected: its tests are not gone."""
        if report.failed:
            self._partial = "a file could not be collected"

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Notice that tests were left out."""
        self._deselection.pytest_deselected(items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:  # noqa: ANN401 - xdist's, which may not be there
        """Notice a crashed worker, and what a worker left out."""
        if error:
            self._partial = "a worker crashed"
        self._deselection.count += int(getattr(node, "workeroutput", {}).get(_DESELECTED, 0))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write what was asked for, whole or not at all."""
        tests = {nodeid: _Test(phases) for nodeid, phases in self._by_test().items()}
        partial = self._why_partial(session, exitstatus)
        known = self._baseline.tests if self._baseline else {}
        stale = [] if partial else sorted(name for name in known if name not in tests and self._in_scope(name))
        mode = self._checkpoint.mode or (Mode.ALL if self._candidate else None)
        changes: tuple[Change, ...] = ()
        written, candidate, kept, outside = "", "", "", []
        if mode is not None:
            measured = self._measured(tests, mode)
            outside = sorted(name for name in measured if not may_stand(name))
            old = self._baseline or Baseline(key=self._checkpoint.place.key, tests={})
            new, changes = update(old, {name: measured[name] for name in measured if name not in outside}, mode, stale=stale)
            kept = _CI if self._in_ci and not self._writes and self._checkpoint.mode else ""
            if mode is Mode.PRUNE and partial:
                kept = f"only a complete run can tell what is stale ({partial})"
            try:
                if self._candidate is not None:
                    write_whole(self._candidate, dump_baseline(new))
                    candidate = str(self._config.getoption("rssguard_candidate"))
                if self._writes and changes and not kept:
                    write_whole(self._checkpoint.place.path, dump_baseline(new))
                if self._writes and not kept:
                    written = self._checkpoint.place.shown
            except OSError as error:
                kept = f"it could not be written ({error.strerror})"
                session.exitstatus = session.exitstatus or pytest.ExitCode.USAGE_ERROR
        self._run = self._summary(
            tests, stale, partial, changes, written=written, candidate=candidate, kept=kept, outside=outside
        )

    def _by_test(self) -> Mapping[str, list[_Phase]]:
        """Return the phases of each test's last attempt."""
        tests: dict[str, list[_Phase]] = {}
        for phase in self._phases:
            if phase.when == "setup":
                tests.pop(phase.nodeid, None)
            tests.setdefault(phase.nodeid, []).append(phase)
        return tests

    def _measured(self, tests: Mapping[str, _Test], mode: Mode) -> dict[str, Entry]:
        """Return the entries of the tests that passed; with "all" also of those that failed by the gate alone."""
        found: dict[str, Entry] = {}
        for nodeid, test in tests.items():
            record = test.record
            if record is not None and (test.passed or (mode is Mode.ALL and test.failed_by_gate)):
                found[nodeid] = make_entry(record, src=self._checkpoint.sources.hash(record.file, record.line))
        return found

    def _why_partial(self, session: pytest.Session, exitstatus: int) -> str:
        """Return why entries without a test in this run may still have one, or ""."""
        options = self._config.option
        for name, shown in _SELECTING:
            if getattr(options, name, None):
                return shown
        if any("::" in argument for argument in self._config.args):
            return "tests named one by one"
        if self._deselection.count:
            return "tests were deselected"
        if exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            return "the run was stopped, or ran nothing"
        if session.shouldfail or session.shouldstop:
            return "the run was stopped"
        return self._partial

    def _in_scope(self, nodeid: str) -> bool:
        """Whether this run was asked for the file of `nodeid`: it lies in or below a folder or file that was named."""
        path = Path(os.path.normpath(self._config.rootpath / nodeid.partition("::")[0]))
        start = self._config.invocation_params.dir
        asked = [Path(os.path.normpath(start / argument)) for argument in self._config.args]
        return any(path.is_relative_to(each) for each in asked)

    def _summary(
        self, tests: Mapping[str, _Test], stale: Sequence[str], partial: str, changes: Sequence[Change], *, written: str,
        candidate: str, kept: str, outside: Sequence[str],
    ) -> GateRun:  # fmt: skip
        place = self._checkpoint.place
        standings: dict[Standing, list[str]] = {}
        for nodeid, test in tests.items():
            if test.standing is not None:
                standings.setdefault(test.standing, []).append(nodeid)
        nearest = None
        if self._baseline is None and place.folder.is_dir():
            nearest = find_nearest(place.key, sorted(each.stem for each in place.folder.glob("*.json")))
        return GateRun(
            key=place.key, given=place.given, file=place.shown, exists=self._baseline is not None, standings=standings,
            today=self._checkpoint.today, entries=self._baseline.tests if self._baseline else {}, stale=stale,
            partial=partial, mode=self._checkpoint.mode, changes=changes, written=written, candidate=candidate, kept=kept,
            outside=outside, nearest=nearest,
        )  # fmt: skip

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the notices."""
        if self._run is None:
            return
        quiet = self._config.get_verbosity() < 0
        if not quiet:
            terminalreporter.write_sep("=", "rssguard baseline")
        for line in gate_lines(self._run, quiet=quiet):
            terminalreporter.write_line(line)


def _make_folder(place: Place) -> None:
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            name="--rssguard-baseline", given=place.given, accepted=f"a folder that can be made ({error.strerror})"
        ) from None


class _Test:
    """What the phases of one test's last attempt say together."""

    def __init__(self, phases: Sequence[_Phase]) -> None:
        known = [phase for phase in phases if phase.standing is not None]
        self.standing = known[-1].standing if known else None
        self._line = known[-1].record if known else ""
        self.passed = all(phase.passed for phase in phases)
        failed = [phase for phase in phases if not phase.passed]
        self.failed_by_gate = self.standing is Standing.REGRESSED and len(failed) == 1 and failed[0].failed

    @property
    def record(self) -> Record | None:
        """The record, None where the gate did not see the test."""
        try:
            return loads(self._line) if self._line else None
        except UnreadableError:
            return None
