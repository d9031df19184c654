"""Learn what the call machinery around a guarded body itself holds more of after the body than before it.

A hook wrapper stands, before its yield, inside pluggy's loop over the implementations, and after it inside pluggy's loop
over the wrappers: the two loops' own objects differ by some bytes (32 B with pluggy 1.7). A no-op hook called through
pluggy in the same way shows by how many.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import pluggy

from pytest_rssguard.guard import Guard
from pytest_rssguard.model import Account, Limit
from pytest_rssguard.span import Plan

_NAME: Final = "rssguard-calibration"
_spec = pluggy.HookspecMarker(_NAME)
_impl = pluggy.HookimplMarker(_NAME)


class _Specification:
    @_spec
    def call(self, item: Plan) -> None:
        """Stand for pytest_runtest_call."""


class _Body:
    @_impl
    def call(self, item: Plan) -> None:
        """Do nothing, as the guarded body of a test that does nothing."""


class _Outer:
    @_impl(wrapper=True)
    def call(self, item: Plan) -> Generator[None, object, object]:  # noqa: ARG002 - pluggy passes it
        """Stand for the wrappers around ours: capture, logging."""
        return (yield)


class _Wrapper:
    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.found: list[int] = []

    @_impl(wrapper=True, trylast=True)
    def call(self, item: Plan) -> Generator[None, object, object]:
        """Measure, from the same place in the loops as the plugin's own wrapper."""
        return (yield from self._measured(item))

    def _measured(self, plan: Plan) -> Generator[None, object, object]:
        span = self.guard.begin(Limit(tolerance=1 << 40), plan)
        try:
            value = yield
        except BaseException:
            self.guard.cancel(span)
            raise
        self.found.append(self.guard.end(span).accounts[Account.PYTHON_LIVE] or 0)
        return value


def call_bias(guard: Guard, *, outer: int) -> int:
    """Return how many bytes of Python objects a wrapper with `outer` wrappers around it sees more at its end.

    The list of wrappers that pluggy keeps grows by one entry between the two ends, and its memory by steps.
    """
    manager = pluggy.PluginManager(_NAME)
    manager.add_hookspecs(_Specification)
    wrapper = _Wrapper(guard)
    for plugin in (_Body(), wrapper, *(_Outer() for _ in range(outer))):
        manager.register(plugin)
    guard.rehearse(lambda plan: manager.hook.call(item=plan))
    return wrapper.found[-1] if wrapper.found[-1] == wrapper.found[-2] else 0
