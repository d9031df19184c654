"""The pytest plugin: hooks only. Imported in every pytest run, so everything heavier comes when a test is guarded.

That includes the measuring hook: `Runner` has it, and is registered once there is something to measure. A run in which
nothing is guarded pays one look at the markers of each test, by `is_marked` (benchmarks/installed.py).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_rssguard.options import (
    MARKER,
    SETTINGS,
    add_options,
    is_marked,
    reject_later,
    runs_tests,
    wants_all,
    wants_gate,
    wants_report,
)

if TYPE_CHECKING:
    from pytest_rssguard.api import Blocks
    from pytest_rssguard.runner import Runner
    from pytest_rssguard.session import Session

_SESSION: pytest.StashKey[Session] = pytest.StashKey()
_RUNNER: pytest.StashKey[Runner] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register options and ini values."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, reject what cannot work, and set up reports where one is asked for."""
    config.addinivalue_line("markers", MARKER)
    if problem := reject_later(config):
        raise pytest.UsageError(problem)
    values = [config.getoption(f"rssguard_{name}") for name in ("tolerance", "trim", "retained", "rounds", "tolerance_scale")]
    ini = [config.getini(f"rssguard_{name}") for name in (*SETTINGS, "unmeasurable")]
    if any(value not in {None, ""} for value in [*values, *ini]):
        from pytest_rssguard.errors import SettingError
        from pytest_rssguard.options import base_settings, unmeasurable_policy

        try:
            base_settings(config)
            unmeasurable_policy(config)
        except SettingError as error:
            raise pytest.UsageError(str(error)) from None
    if wants_gate(config):
        _set_up_gate(config)
    if wants_all(config) and runs_tests(config):
        _runner(config).prepare(config)
    if given := config.getoption("rssguard_log"):
        _set_up_log(config, given)
    if wants_report(config) and not hasattr(config, "workerinput"):
        from pytest_rssguard.reporting import Reporting

        config.pluginmanager.register(Reporting(config), "rssguard-reporting")


def _set_up_log(config: pytest.Config, given: str) -> None:
    """Write a log where tests run; elsewhere see now that it can be written."""
    if runs_tests(config):
        from pytest_rssguard.event_log import EventLog

        worker = os.environ.get("PYTEST_XDIST_WORKER") if hasattr(config, "workerinput") else None
        config.pluginmanager.register(EventLog(given, worker), "rssguard-log")
    else:
        from pytest_rssguard.event_log import log_path
        from pytest_rssguard.reporting import check_writable

        check_writable(log_path(given, "gw0"), option="--rssguard-log")


def _set_up_gate(config: pytest.Config) -> None:
    """Read the baseline, and register who writes it: never an xdist worker."""
    from pytest_rssguard.baselining import Baselining, Deselection
    from pytest_rssguard.checkpoint import open_checkpoint
    from pytest_rssguard.errors import SettingError, UnreadableBaselineError
    from pytest_rssguard.session import CHECKPOINT

    worker = hasattr(config, "workerinput")
    try:
        checkpoint = open_checkpoint(config)
        if checkpoint is None or config.getoption("rssguard_off"):
            return
        config.stash[CHECKPOINT] = checkpoint
        plugin = Deselection() if worker else Baselining(config, checkpoint)
    except (SettingError, UnreadableBaselineError) as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(plugin, "rssguard-baseline")


def _session(config: pytest.Config) -> Session:
    session = config.stash.get(_SESSION, None)
    if session is None:
        from pytest_rssguard.session import Session

        session = config.stash[_SESSION] = Session(config)
    return session


def _runner(config: pytest.Config) -> Runner:
    runner = config.stash.get(_RUNNER, None)
    if runner is None:
        from pytest_rssguard.runner import Runner

        runner = config.stash[_RUNNER] = Runner(_session(config))
        config.pluginmanager.register(runner, "rssguard-runner")
    return runner


def _marked_items(nodes: Iterable[pytest.Item | pytest.Collector]) -> Iterator[pytest.Item]:
    """Pick the marked items. Siblings follow each other, so that what is above them is looked at once."""
    parent, inherited = None, False
    for node in nodes:
        if node.parent is not parent:
            parent = node.parent
            inherited = is_marked(parent)
        if isinstance(node, pytest.Item) and (inherited or (node.own_markers and is_marked(node))):
            yield node


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a bad marker into a collection error: pytest.UsageError would be an INTERNALERROR under xdist."""
    report = yield
    problems: list[str] = []
    for item in _marked_items(report.result or ()):
        problems += _session(collector.config).problems(item)
    if problems:
        report.outcome = "failed"
        report.longrepr = "\n".join(problems)
        report.result = []
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Look for tests to be measured as a whole, once everybody has added markers: they need hooks of their own."""
    for item in _marked_items(session.items):
        if _runner(session.config).see(item):
            return


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Validate a marker that was added after collection, by a fixture too."""
    if is_marked(item):
        _runner(item.config).check(item)


@pytest.fixture(scope="session")
def rssguard(pytestconfig: pytest.Config) -> Blocks:
    """Guard or measure blocks of code inside a test: rssguard.returns(…), rssguard.measure(…)."""
    _runner(pytestconfig)
    return _session(pytestconfig).blocks
