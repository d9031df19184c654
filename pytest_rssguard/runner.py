"""Run tests measured: the body once, in rounds, the whole test, or every test with a cheap look.

The measuring hook is the innermost wrapper of pytest_runtest_call: there the noise of tests that do nothing is 0 KiB, and
sync, asyncio, anyio, unittest, hypothesis, subtests and doctest bodies are all seen (docs/design.md, "Where").
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from pytest_rssguard.api import process_guard
from pytest_rssguard.calibration import call_bias
from pytest_rssguard.errors import RssGuardError
from pytest_rssguard.guard import Guard
from pytest_rssguard.model import Outcome
from pytest_rssguard.options import is_marked
from pytest_rssguard.repetition import why_not_repeatable
from pytest_rssguard.result import Result
from pytest_rssguard.session import Session
from pytest_rssguard.settings import Settings
from pytest_rssguard.span import Plan
from pytest_rssguard.watch import Watch

if TYPE_CHECKING:
    from pytest_rssguard.checkpoint import Checkpoint
    from pytest_rssguard.gate import Sizes
    from pytest_rssguard.record import Record
    from pytest_rssguard.regression import Confirmation
    from pytest_rssguard.whole_test import WholeTests

#: What pytest.fail, pytest.skip and pytest.xfail raise: no Exceptions.
_OUTCOMES: Final = (pytest.fail.Exception, pytest.skip.Exception, pytest.xfail.Exception)


class Runner:
    """The measuring side of one session, a plugin: registered when the first guarded test is seen."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bias: int | None = None
        self._watch: Watch | None = None
        self.whole: WholeTests | None = None

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure the body of a guarded test, or of every test where that is asked for."""
        if is_marked(item):
            return (yield from self.call(item))
        return (yield from self.call_unmarked(item))

    def prepare(self, config: pytest.Config) -> None:
        """Make all that looking at every test needs, while the process is small: later each collection takes longer."""
        if not self._session.off:
            process_guard().draws = _wants_drawings(config)
            self._watch = Watch(process_guard())

    def check(self, item: pytest.Item) -> None:
        """Fail the setup of an item whose marker was added late and is bad."""
        self._session.check(item, begun=self.whole is not None and self.whole.begun(item))

    def see(self, item: pytest.Item) -> bool:
        """Take note of a collected item; return whether whole tests are measured now: their hooks cost every test some."""
        try:
            if self.whole is None and not self._session.off and self._session.settings(item).whole_test:
                from pytest_rssguard.whole_test import WholeTests

                self.whole = WholeTests(self._session, self.finish)
                item.config.pluginmanager.register(self.whole, "rssguard-whole-tests")
        except RssGuardError:
            return False  # a marker that was added late and is bad: `check` says it
        return self.whole is not None

    def call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the body of the guarded `item`; raise what its outcome asks for."""
        session = self._session
        if session.off:
            return (yield)
        settings = session.settings(item)
        if settings.whole_test:
            return (yield) if self.whole is None else (yield from self.whole.noticed(item))
        if settings.rounds + settings.warmup == 1:
            return (yield from self._once(item, settings))
        return (yield from self._repeated(item, settings))

    def _prepare(self, item: pytest.Item) -> Guard:
        guard = process_guard()
        guard.draws = guard.draws or _wants_drawings(item.config)
        _set_current_test(item)
        if self._bias is None:
            hooks = item.ihook.pytest_runtest_call.get_hookimpls()
            self._bias = call_bias(guard, outer=sum(hook.wrapper or hook.hookwrapper for hook in hooks) - 1)
        return guard

    def call_unmarked(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the body of a test without a marker: looked at where every test is, else as it is."""
        session = self._session
        if session.off or not (session.all or session.judge_all):
            try:
                return (yield)
            finally:
                session.finish_blocks(item)
        if session.judge_all and session.base.rounds + session.base.warmup > 1:
            return (yield from self.call(item))
        if self._watch is None:
            self._watch = Watch(process_guard())
        if self._watch.blind:
            return (yield from self._once(item, session.base, judged=session.judge_all))
        return (yield from self._watched(item, self._watch))

    def _watched(self, item: pytest.Item, watch: Watch) -> Generator[None, object, object]:
        session, settings = self._session, self._session.base
        limit, judged = session.limit, session.judge_all
        begun = watch.begin(limit)
        if begun is None:
            return (yield from self._once(item, settings, judged=judged))
        try:
            value = yield
        except BaseException as error:
            session.note_unjudged(item, settings, type(error).__name__)
            raise
        if getattr(item, "_excinfo", None):
            session.note_unjudged(item, settings, "its own failure")
            return value
        found = watch.end(begun, limit, trim=settings.trim)
        if isinstance(found, Result):
            self.finish(item, settings, found, judged=judged)
        elif session.has_blocks:
            session.finish_blocks(item)
        else:
            session.note_brief(item, begun=begun, ended=found, judged=judged)
            if session.checkpoint is not None:
                from pytest_rssguard.gate import Sizes

                live = found.live - begun.live
                seen = Sizes(held=live, retained=found.rss - begun.rss - live)
                self._compare(item, settings, seen, session.checkpoint, judged=judged)
        return value

    def _once(self, item: pytest.Item, settings: Settings, *, judged: bool = True) -> Generator[None, object, object]:
        guard = self._prepare(item)
        logged = _log_records(item)
        span = guard.begin(settings.limit, Plan(trim=settings.trim, within=settings.within), bias=self._bias or 0)
        try:
            value = yield
        except BaseException as error:
            guard.cancel(span)
            self._session.note_unjudged(item, settings, type(error).__name__)
            raise
        if getattr(item, "_excinfo", None):  # a failed unittest method raises nothing through its wrapper
            guard.cancel(span)
            self._session.note_unjudged(item, settings, "its own failure")
            return value
        result = guard.end(span)
        if logged is not None:
            result = replace(result, log_records=max(0, (_log_records(item) or 0) - logged))
        self.finish(item, settings, result, judged=judged)
        return value

    def _repeated(self, item: pytest.Item, settings: Settings) -> Generator[None, object, object]:
        """Run the body `warmup` + `rounds` times: first through pytest, then by item.runtest()."""
        guard = self._prepare(item)
        from pytest_rssguard.keeping import Rounds

        rounds = Rounds(guard, settings)
        value: object = None
        for number in range(1 - settings.warmup, settings.rounds + 1):
            first = number == 1 - settings.warmup
            span = None
            if number > 0:
                span = guard.begin(settings.limit, rounds.plan(number), bias=self._bias or 0 if first else 0)
            try:
                if first:
                    value = yield
                else:
                    item.runtest()
            except BaseException as error:
                if span is not None:
                    guard.cancel(span)
                rounds.drop()
                if not first:
                    error.add_note(f"rssguard: in {_round_name(settings, number)}")
                self._session.note_unjudged(item, settings, f"{type(error).__name__} in {_round_name(settings, number)}")
                raise
            if getattr(item, "_excinfo", None):
                if span is not None:
                    guard.cancel(span)
                rounds.drop()
                self._session.note_unjudged(item, settings, f"its own failure in {_round_name(settings, number)}")
                return value
            if span is not None:
                rounds.add(number, guard.pause(span))
        self.finish(item, settings, rounds.decide())
        return value

    def finish(self, item: pytest.Item, settings: Settings, result: Result, *, judged: bool = True) -> None:
        """Note what was found, raise what it asks for, compare it with the committed baseline."""
        record = self._session.note(item, settings, result, judged=judged)
        if judged:
            self._session.enforce(item, settings, result)
        if self._session.checkpoint is not None:
            from pytest_rssguard.gate import sizes

            self._compare(item, settings, sizes(record), self._session.checkpoint, record=record, result=result, judged=judged)

    def _compare(
        self, item: pytest.Item, settings: Settings, found: Sizes, checkpoint: Checkpoint, *, judged: bool,
        record: Record | None = None, result: Result | None = None,
    ) -> None:  # fmt: skip
        """Compare with the committed baseline; raise what that asks for. Without a `result`: after a cheap look only."""
        if result is not None and result.verdict.outcome is Outcome.UNMEASURABLE:
            return
        confirm = partial(self._confirm, item, settings, result)
        finding = checkpoint.check(item, found, result, settings=settings, confirm=confirm)
        self._session.note_finding(item, settings, finding, record=record, judged=judged)

    def _confirm(self, item: pytest.Item, settings: Settings, result: Result | None) -> Confirmation:
        """Run the body once more, measured like the first time, for a regression that is about to be called."""
        from pytest_rssguard.regression import Confirmation

        if result is not None and len(result.rounds) > 1:
            return Confirmation(rounds=len(result.rounds))
        if settings.whole_test:
            return Confirmation(impossible="a test measured with its fixtures runs once")
        if why := why_not_repeatable(item):
            return Confirmation(impossible=why)
        guard = process_guard()
        span = guard.begin(settings.limit, Plan(trim=settings.trim, within=settings.within, release=False))
        try:
            item.runtest()
        except (Exception, SystemExit, *_OUTCOMES) as error:  # noqa: BLE001 - whatever a body raises: no confirmation
            guard.cancel(span)
            return Confirmation(trouble=type(error).__name__)
        except BaseException:
            guard.cancel(span)
            raise
        if getattr(item, "_excinfo", None):  # what a unittest method raised; the test itself has passed before
            item._excinfo = None  # type: ignore[attr-defined]  # noqa: SLF001 - pytest has no other way to say so
            guard.cancel(span)
            return Confirmation(trouble="its own failure")
        return Confirmation(result=guard.end(span))


def _round_name(settings: Settings, number: int) -> str:
    if number > 0:
        return f"round {number} of {settings.rounds}"
    return f"warm-up {number + settings.warmup} of {settings.warmup}"


def _log_records(item: pytest.Item) -> int | None:
    """Return how many log records pytest's logging plugin keeps now; None without that plugin, or with another one."""
    handler = getattr(item.config.pluginmanager.get_plugin("logging-plugin"), "caplog_handler", None)
    records = getattr(handler, "records", None)
    return len(records) if isinstance(records, list) else None


def _wants_drawings(config: pytest.Config) -> bool:
    """Whether this run makes a report that shows heaps page by page."""
    return any(config.getoption(f"rssguard_{name}") for name in ("json", "html", "log"))


def _set_current_test(item: pytest.Item) -> None:
    """Set PYTEST_CURRENT_TEST as pytest will inside our measurement: else its longer text reads as 64-112 B held."""
    os.environ["PYTEST_CURRENT_TEST"] = f"{item.nodeid} (call)".replace("\x00", "(null)")
