"""A pytest plugin that times pytest_runtest_call from outside: guarded and unguarded tests, and a floor beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import pytest


class HookTimer:
    """Times in nanoseconds. `floor` runs the floor once and returns how long it took."""

    def __init__(self, floor: Callable[[], int]) -> None:
        self._floor = floor
        self.times: dict[str, list[int]] = {"floor": [], "guarded": [], "plain": []}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Time the floor before or after a guarded test, in turn, and every test."""
        guarded = item.get_closest_marker("rss_returns") is not None
        before = guarded and len(self.times["guarded"]) % 2
        if before:
            self.times["floor"].append(self._floor())
        started = time.perf_counter_ns()
        value = yield
        self.times["guarded" if guarded else "plain"].append(time.perf_counter_ns() - started)
        if guarded and not before:
            self.times["floor"].append(self._floor())
        return value
