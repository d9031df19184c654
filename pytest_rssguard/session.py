"""One pytest session's guard: markers to settings, a test's body to a record, an outcome to a failure."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Final

import pytest

from pytest_rssguard.api import Blocks, Measurement, announce, failure, message, process_guard
from pytest_rssguard.calibration import call_bias
from pytest_rssguard.errors import RssGuardError, SettingError
from pytest_rssguard.failures import RssGuardWarning
from pytest_rssguard.hints import hints
from pytest_rssguard.model import Outcome
from pytest_rssguard.options import base_settings, unmeasurable_policy
from pytest_rssguard.record import Block, Record
from pytest_rssguard.result import Result
from pytest_rssguard.settings import Settings, marker_arguments, merge

#: The name of our property in item.user_properties: the only channel that survives xdist, reruns and isolation plugins.
PROPERTY: Final = "rssguard"
_FAILS: Final = {Outcome.LEAKED, Outcome.RETAINED, Outcome.GREW}
_SEVERITY: Final = (
    Outcome.RETURNED, Outcome.NOT_JUDGED, Outcome.UNMEASURABLE, Outcome.GREW, Outcome.RETAINED, Outcome.LEAKED,
)  # fmt: skip


class Session:
    """What this process needs to guard tests. Made when the first guarded test is collected or run."""

    def __init__(self, config: pytest.Config) -> None:
        try:
            self._base = base_settings(config)
            self._unmeasurable = unmeasurable_policy(config)
        except SettingError as error:
            raise pytest.UsageError(str(error)) from None
        self._off = bool(config.getoption("rssguard_off"))
        self._worker: str | None = os.environ.get("PYTEST_XDIST_WORKER") if hasattr(config, "workerinput") else None
        self._seen: set[int] = set()
        self._done: list[Measurement] = []
        self._bias: int | None = None
        self.blocks = Blocks(self._base, off=self._off, done=self._block_done)

    def settings(self, item: pytest.Item) -> Settings:
        """Return how `item` is guarded. Raises RssGuardError for a bad marker."""
        for node in item.listchain():
            if sum(mark.name == "rss_returns" for mark in node.own_markers) > 1:
                raise SettingError(
                    name="rss_returns",
                    given="two markers",
                    accepted=f"one on {node.name!r}",
                    advice="merge them",
                )
        return merge(
            self._base,
            (marker_arguments(mark.args, mark.kwargs) for mark in item.iter_markers("rss_returns")),
        )

    def problems(self, item: pytest.Item) -> Iterator[str]:
        """Yield one line, "file:line: what", for a bad marker on `item`; a class's or module's marker is told once."""
        try:
            self.settings(item)
        except RssGuardError as error:
            marks = {id(mark) for mark in item.iter_markers("rss_returns")}
            if not marks <= self._seen:
                self._seen |= marks
                path, line, _ = item.location
                yield f"{path}:{(line or 0) + 1}: rss_returns: {error}"

    def check(self, item: pytest.Item) -> None:
        """Fail the setup of an item whose marker was added late and is bad."""
        try:
            self.settings(item)
        except RssGuardError as error:
            path, line, _ = item.location
            pytest.fail(f"{path}:{(line or 0) + 1}: rss_returns: {error}", pytrace=False)

    def measured(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the body of `item` measured; raise what its outcome asks for."""
        if self._off:
            return (yield)
        settings = self.settings(item)
        guard = process_guard()
        _set_current_test(item)
        if self._bias is None:
            hooks = item.ihook.pytest_runtest_call.get_hookimpls()
            self._bias = call_bias(guard, outer=sum(hook.wrapper or hook.hookwrapper for hook in hooks) - 1)
        span = guard.begin(settings.limit, trim=settings.trim, bias=self._bias)
        try:
            value = yield
        except BaseException as error:
            guard.cancel(span)
            self._note(item, self._not_judged(item, settings, type(error).__name__))
            raise
        if getattr(item, "_excinfo", None):  # a failed unittest method raises nothing through its wrapper
            guard.cancel(span)
            self._note(item, self._not_judged(item, settings, "its own failure"))
            return value
        result = guard.end(span)
        self._note(item, self._record(item, settings, result))
        self._enforce(item, settings, result)
        return value

    def _enforce(self, item: pytest.Item, settings: Settings, result: Result) -> None:
        outcome = result.verdict.outcome
        text = message(result, nodeid=item.nodeid, reason=settings.reason)
        if outcome is Outcome.UNMEASURABLE and self._unmeasurable == "skip":
            pytest.skip(announce(result))
        if outcome in _FAILS and not (outcome is Outcome.RETAINED and settings.warns):
            raise failure(result, nodeid=item.nodeid, reason=settings.reason)
        if outcome is Outcome.UNMEASURABLE and self._unmeasurable == "fail":
            raise failure(result, nodeid=item.nodeid, reason=settings.reason)
        if outcome in {Outcome.UNMEASURABLE, Outcome.RETAINED}:
            item.warn(RssGuardWarning(f"{announce(result)}\n{text.partition(chr(10))[2]}"))

    def _block_done(self, measurement: Measurement) -> None:
        """Take in a finished `with rssguard.…` block; judge it if it is judged."""
        self._done.append(measurement)
        if not measurement.judged:
            return
        result, settings = measurement.result, measurement.settings
        if result.verdict.outcome is Outcome.UNMEASURABLE and self._unmeasurable == "skip":
            pytest.skip(announce(result))
        if result.verdict.outcome is Outcome.UNMEASURABLE and self._unmeasurable == "fail":
            raise failure(result, reason=settings.reason)
        measurement.enforce()

    def finish_blocks(self, item: pytest.Item) -> None:
        """Write the record of an unmarked test that measured blocks."""
        if not self._done:
            return
        if self._off:
            self._done.clear()
            return
        worst = max(self._done, key=lambda each: (each.judged, _SEVERITY.index(each.outcome)))
        record = self._record(item, worst.settings, worst.result, judged=worst.judged)
        self._note(item, record)

    def _take_blocks(self) -> tuple[Block, ...]:
        done, self._done = self._done, []
        return tuple(
            Block(
                label=each.label, outcome=each.outcome, growth=each.growth, held=each.held, retained=each.retained,
                accounts=each.ledger,
            )
            for each in done
        )  # fmt: skip

    def _record(self, item: pytest.Item, settings: Settings, result: Result, *, judged: bool = True) -> Record:
        failed = result.verdict.outcome is not Outcome.RETURNED
        pins = sorted(result.census.pins.items(), key=lambda pin: -pin[1])[:8] if result.census else []
        return Record(
            nodeid=item.nodeid, outcome=result.verdict.outcome, masked=result.verdict.masked, judged=judged,
            tolerance=result.limit.tolerance, basis=result.basis, rss_untrimmed=result.rss_untrimmed,
            rss_before=result.rss_before, rss_after=result.rss_after, rss_settled=result.rss_settled,
            growth=result.growth, allocated=result.allocated, held=result.held, retained=result.retained,
            collected=result.collected, accounts=result.accounts,
            rounds=({"growth": result.growth, "held": result.held, "retained": result.retained},),
            blocks=self._take_blocks(), message=announce(result) if failed else "", hints=tuple(hints(result)),
            reason=settings.reason, worker=self._worker, seconds=result.seconds, pins=tuple(pins),
            file=item.location[0], line=_line(item),
            text=message(result, nodeid=item.nodeid, reason=settings.reason) if failed else "",
        )  # fmt: skip

    def _not_judged(self, item: pytest.Item, settings: Settings, why: str) -> Record:
        from pytest_rssguard.ledger import booked

        return Record(
            nodeid=item.nodeid, outcome=Outcome.NOT_JUDGED, judged=False, tolerance=settings.limit.tolerance,
            rss_untrimmed=0, rss_before=0, rss_after=0, rss_settled=0, growth=0, allocated=None, held=0, retained=0,
            collected=0, accounts=booked(0, {}), blocks=self._take_blocks(), message=f"not judged: {why}",
            reason=settings.reason, worker=self._worker, file=item.location[0], line=_line(item),
        )  # fmt: skip

    @staticmethod
    def _note(item: pytest.Item, record: Record) -> None:
        """Put the record where reports find it; a rerun replaces the one before."""
        item.user_properties[:] = [each for each in item.user_properties if each[0] != PROPERTY]
        item.user_properties.append((PROPERTY, record.dumps()))


def _line(item: pytest.Item) -> int | None:
    """Return the line of `item`, counted from 1, or None where pytest does not know it."""
    line = item.location[1]
    return None if line is None else line + 1


def _set_current_test(item: pytest.Item) -> None:
    """Set PYTEST_CURRENT_TEST as pytest will inside our measurement: else its longer text reads as 64-112 B held."""
    os.environ["PYTEST_CURRENT_TEST"] = f"{item.nodeid} (call)".replace("\x00", "(null)")
