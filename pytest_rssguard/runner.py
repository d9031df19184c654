"""Run tests measured: the body once, in rounds, the whole test, or every test with a cheap look."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from pytest_rssguard.api import process_guard
from pytest_rssguard.calibration import call_bias
from pytest_rssguard.errors import RssGuardError
from pytest_rssguard.guard import Guard
from pytest_rssguard.keeping import Rounds
from pytest_rssguard.result import Result
from pytest_rssguard.session import Session
from pytest_rssguard.settings import Settings
from pytest_rssguard.span import Plan, Span
from pytest_rssguard.watch import Watch


class Runner:
    """The measuring side of one session. Made when the first guarded test runs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bias: int | None = None
        self._watch: Watch | None = None
        self._whole: pytest.StashKey[Span] = pytest.StashKey()
        self._trouble: pytest.StashKey[str] = pytest.StashKey()

    def call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the body of the guarded `item`; raise what its outcome asks for."""
        session = self._session
        if session.off:
            return (yield)
        settings = session.settings(item)
        if settings.whole_test:
            return (yield from self._noticed(item))
        if settings.rounds + settings.warmup == 1:
            return (yield from self._once(item, settings))
        return (yield from self._repeated(item, settings))

    def _prepare(self, item: pytest.Item) -> Guard:
        guard = process_guard()
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
        limit, judged = settings.limit, session.judge_all
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
            self._finish(item, settings, found, judged=judged)
        elif session.has_blocks:
            session.finish_blocks(item)
        else:
            session.note_brief(item, begun=begun, ended=found, judged=judged)
        return value

    def _once(self, item: pytest.Item, settings: Settings, *, judged: bool = True) -> Generator[None, object, object]:
        guard = self._prepare(item)
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
        self._finish(item, settings, guard.end(span), judged=judged)
        return value

    def _repeated(self, item: pytest.Item, settings: Settings) -> Generator[None, object, object]:
        """Run the body `warmup` + `rounds` times: first through pytest, then by item.runtest()."""
        guard = self._prepare(item)
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
        self._finish(item, settings, rounds.decide())
        return value

    def _finish(self, item: pytest.Item, settings: Settings, result: Result, *, judged: bool = True) -> None:
        self._session.note(item, settings, result, judged=judged)
        if judged:
            self._session.enforce(item, settings, result)

    def _noticed(self, item: pytest.Item) -> Generator[None, object, object]:
        """Let a phase run that is part of a measured test; remember if it failed or skipped."""
        try:
            value = yield
        except BaseException as error:
            item.stash[self._trouble] = type(error).__name__
            raise
        if getattr(item, "_excinfo", None):
            item.stash[self._trouble] = "its own failure"
        return value

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin to measure a whole test, where its marker says scope="test"."""
        session = self._session
        if session.off or item.get_closest_marker("rss_returns") is None:
            return (yield)
        try:
            settings = session.settings(item)
        except RssGuardError:
            return (yield)  # `check` says it, once what fixtures add is there too
        if not settings.whole_test:
            return (yield)
        plan = Plan(trim=settings.trim, within=settings.within)
        item.stash[self._whole] = process_guard().begin(settings.limit, plan)
        return (yield from self._noticed(item))

    def check(self, item: pytest.Item) -> None:
        """Fail the setup of an item whose marker was added late and is bad."""
        self._session.check(item, begun=self._whole in item.stash)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """End the measurement of a whole test once its fixtures are gone; raise what its outcome asks for."""
        span = item.stash.get(self._whole, None)
        if span is None:
            return (yield)
        del item.stash[self._whole]
        guard, session = process_guard(), self._session
        settings = session.settings(item)
        try:
            value = yield
        except BaseException as error:
            guard.cancel(span)
            session.note_unjudged(item, settings, f"{type(error).__name__} in teardown")
            raise
        if trouble := item.stash.get(self._trouble, ""):
            guard.cancel(span)
            del item.stash[self._trouble]
            session.note_unjudged(item, settings, trouble)
            return value
        funcargs = getattr(item, "funcargs", None)
        if isinstance(funcargs, dict):
            funcargs.clear()  # pytest keeps fixture values until after the report of this phase
        self._finish(item, settings, guard.end(span))
        return value


def _round_name(settings: Settings, number: int) -> str:
    if number > 0:
        return f"round {number} of {settings.rounds}"
    return f"warm-up {number + settings.warmup} of {settings.warmup}"


def _set_current_test(item: pytest.Item) -> None:
    """Set PYTEST_CURRENT_TEST as pytest will inside our measurement: else its longer text reads as 64-112 B held."""
    os.environ["PYTEST_CURRENT_TEST"] = f"{item.nodeid} (call)".replace("\x00", "(null)")
