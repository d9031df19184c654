"""Measure whole tests, scope="test": the body with its function-scoped fixtures and their teardown."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

from pytest_rssguard.api import process_guard
from pytest_rssguard.errors import RssGuardError
from pytest_rssguard.result import Result
from pytest_rssguard.session import Session
from pytest_rssguard.settings import Settings
from pytest_rssguard.span import Plan, Span


class WholeTests:
    """Begins before a test's setup and ends after its teardown. Registered when the first such test is collected."""

    def __init__(self, session: Session, finish: Callable[[pytest.Item, Settings, Result], None]) -> None:
        self._session = session
        self._finish = finish
        self._whole: pytest.StashKey[Span] = pytest.StashKey()
        self._trouble: pytest.StashKey[str] = pytest.StashKey()

    def noticed(self, item: pytest.Item) -> Generator[None, object, object]:
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
        return (yield from self.noticed(item))

    def begun(self, item: pytest.Item) -> bool:
        """Whether the whole of `item` is being measured."""
        return self._whole in item.stash

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
