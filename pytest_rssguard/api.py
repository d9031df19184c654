"""`returns` and `measure`: guard a block of code, in a test or in plain Python."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from pytest_rssguard.errors import SettingError, UnknownArgumentError
from pytest_rssguard.failures import RssGuardWarning, RssLeak, RssNotReturned, RssRetained
from pytest_rssguard.guard import Guard
from pytest_rssguard.model import Account, Limit, Outcome
from pytest_rssguard.result import Result
from pytest_rssguard.settings import Settings
from pytest_rssguard.span import Plan

if TYPE_CHECKING:
    from pytest_rssguard.process import Target

_EXCEPTIONS: Mapping[Outcome, type[RssNotReturned]] = {Outcome.LEAKED: RssLeak, Outcome.RETAINED: RssRetained}


#: What sys.getrefcount says of a measurement that only our list holds: the list, the loop variable, the argument.
_OUR_REFERENCES = 3


@cache
def process_guard() -> Guard:
    """Return the one guard of this process: measurements nest, so they must know of each other."""
    return Guard()


@cache
def _kept() -> list[Measurement]:
    """Return the ended measurements of this process that somebody may still hold.

    `with measure() as m` in a loop lets go of the m before only after the next baseline: its numbers must not vanish from
    that measurement's memory, so they live until the measurement after.
    """
    return []


def _drop_unused() -> None:
    kept = _kept()
    kept[:] = [each for each in kept if sys.getrefcount(each) > _OUR_REFERENCES]


@cache
def with_bias() -> int:
    """Return how many bytes of Python objects a `with` statement itself holds more of at its end: -64 in CPython 3.11."""
    found = []
    for _ in range(3):
        with Measurement(Settings(), bias=0) as nothing:
            pass
        found.append(nothing.ledger[Account.PYTHON_LIVE] or 0)
    return found[-1] if found[-1] == found[-2] else 0


def message(result: Result, *, nodeid: str = "", reason: str | None = None) -> str:
    """Return the whole failure text without the exception's name."""
    from pytest_rssguard.explain import explain, headline

    return "\n".join((headline(result), "", *explain(result, nodeid=nodeid, reason=reason)))


def failure(result: Result, *, nodeid: str = "", reason: str | None = None) -> RssNotReturned:
    """Return the exception that `result` raises where it is judged."""
    kind = _EXCEPTIONS.get(result.verdict.outcome, RssNotReturned)
    return kind(message(result, nodeid=nodeid, reason=reason))


def announce(result: Result) -> str:
    """Return the first line with the exception's name: what stands in warnings and records."""
    from pytest_rssguard.explain import exception_name, headline

    return f"{exception_name(result.verdict.outcome)}: {headline(result)}"


class Meter(Protocol):
    """What measures: this process's guard, or the reader of another process."""

    def begin(self, limit: Limit, plan: Plan) -> Any:  # noqa: ANN401 - each has its own kind of baseline
        """Take the baseline."""

    def cancel(self, span: Any) -> None:  # noqa: ANN401 - same
        """Forget a measurement whose block failed on its own."""

    def end(self, span: Any) -> Result:  # noqa: ANN401 - same
        """Read again, and say what grew."""


class Measurement:
    """A measured block of code: `with measure() as m`. Sizes in bytes; reading before the end raises RuntimeError."""

    def __init__(
        self,
        settings: Settings,
        *,
        label: str = "",
        judged: bool = False,
        census: bool = False,
        off: bool = False,
        done: Callable[[Measurement], None] | None = None,
        bias: int | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._bias = bias
        self._meter = meter
        self.settings = settings
        self.label = label
        self.judged = judged
        self._plan = Plan(trim=settings.trim, census=census, within=settings.within)
        self._off = off
        self._done = done
        self._span: Any = None
        self._result: Result | None = None
        self._ended = False

    def __enter__(self) -> Self:
        if self._span is not None or self._ended:
            raise RuntimeError("rssguard: a measurement can be used once; make a new one with measure() or returns()")
        if not self._off:
            _drop_unused()
            if self._meter is not None:
                self._span = self._meter.begin(self.settings.limit, self._plan)
                return self
            bias = with_bias() if self._bias is None else self._bias
            self._span = process_guard().begin(self.settings.limit, self._plan, bias=bias)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended = True
        span, self._span = self._span, None
        if span is None:
            return
        if error is not None:
            (self._meter or process_guard()).cancel(span)
            return
        self._result = (self._meter or process_guard()).end(span)
        _kept().append(self)
        if self._done is not None:
            self._done(self)
        elif self.judged:
            self.enforce()

    def enforce(self) -> None:
        """Raise or warn as the outcome asks for."""
        result = self.result
        outcome = result.verdict.outcome
        if outcome is Outcome.UNMEASURABLE or (outcome is Outcome.RETAINED and self.settings.warns):
            warnings.warn(RssGuardWarning(message(result, reason=self.settings.reason)), stacklevel=3)
        elif outcome in {Outcome.LEAKED, Outcome.RETAINED, Outcome.GREW}:
            raise failure(result, reason=self.settings.reason)

    @property
    def result(self) -> Result:
        """Everything that was found."""
        if self._result is None:
            state = "measured nothing (its body failed, or --rssguard-off)" if self._ended else "has not ended yet"
            raise RuntimeError(f"rssguard: this measurement {state}")
        return self._result

    @property
    def outcome(self) -> Outcome:
        """The outcome at the tolerance in force; "not judged" under --rssguard-off."""
        return Outcome.NOT_JUDGED if self._idle else self.result.verdict.outcome

    @property
    def _idle(self) -> bool:
        return self._off and self._ended

    @property
    def growth(self) -> int:
        """RSS growth."""
        return 0 if self._idle else self.result.growth

    @property
    def held(self) -> int:
        """Growth that the program still holds."""
        return 0 if self._idle else self.result.held

    @property
    def retained(self) -> int:
        """Growth that was freed and stayed resident."""
        return 0 if self._idle else self.result.retained

    @property
    def allocated(self) -> int | None:
        """Growth of the allocators' counters and of mapping sizes; None where a counter is missing."""
        return 0 if self._idle else self.result.allocated

    @property
    def ledger(self) -> Mapping[Account, int | None]:
        """The accounts; they sum to `growth`."""
        return dict.fromkeys(Account, 0) if self._idle else self.result.accounts

    def __str__(self) -> str:
        if self._idle:
            return "not measured: --rssguard-off"
        from pytest_rssguard.explain import exception_name

        return f"{exception_name(self.outcome)}: {message(self.result)}"


class Blocks:
    """The two functions, bound to what a test run sets: what the fixture `rssguard` is."""

    def __init__(
        self,
        base: Settings,
        *,
        off: bool = False,
        done: Callable[[Measurement], None] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._base = base
        self._off = off
        self._done = done
        self._meter = meter

    def process(self, target: Target, *, children: bool = False) -> Blocks:
        """Return the same two functions for another process: a pid, a subprocess.Popen or a psutil.Process.

        `children`: all its children too, whenever they were started; sizes are summed, so a page that is shared after a
        fork counts in each. The process is read from outside and left as it is. Raises ProcessError where it cannot be
        read, SettingError for anything that is no process.
        """
        from pytest_rssguard.process import ProcessMeter, pid_of

        if not isinstance(children, bool):
            raise SettingError(name="children", given=children, accepted="True or False")
        pid_of(target)
        meter = None if self._off else ProcessMeter(target, children=children)
        return Blocks(self._base, off=self._off, done=self._done, meter=meter)

    def returns(
        self,
        tolerance: str | int | None = None,
        *,
        trim: bool | None = None,
        retained: str | int | None = None,
        within: float | None = None,
        label: str = "",
        reason: str | None = None,
    ) -> Measurement:
        """Return a context manager that raises RssLeak, RssRetained or RssNotReturned like the marker.

        Arguments as the marker's; `label` names the block in reports. Raises SettingError for a bad one.
        """
        settings = self._base.with_arguments(
            {"tolerance": tolerance, "trim": trim, "retained": retained, "within": within, "reason": reason}
        )
        return Measurement(settings, label=_label(label), judged=True, off=self._off, done=self._done, meter=self._meter)

    def measure(
        self,
        tolerance: str | int | None = None,
        *,
        trim: bool | None = None,
        within: float | None = None,
        census: bool = False,
        label: str = "",
    ) -> Measurement:
        """Return a context manager that only measures. `census`: page-exact at both ends, whatever happens."""
        settings = self._base.with_arguments({"tolerance": tolerance, "trim": trim, "within": within})
        if not isinstance(census, bool):
            raise SettingError(name="census", given=census, accepted="True or False")
        return Measurement(settings, label=_label(label), census=census, off=self._off, done=self._done, meter=self._meter)


def _label(label: object) -> str:
    if not isinstance(label, str):
        raise SettingError(name="label", given=label, accepted="a text")
    return label


def returns(
    tolerance: str | int | None = None,
    *,
    trim: bool | None = None,
    retained: str | int | None = None,
    within: float | None = None,
    label: str = "",
    reason: str | None = None,
) -> Measurement:
    """Guard a block outside a test run: as the fixture's `returns`."""
    return Blocks(Settings()).returns(tolerance, trim=trim, retained=retained, within=within, label=label, reason=reason)


def measure(
    tolerance: str | int | None = None,
    *,
    trim: bool | None = None,
    within: float | None = None,
    census: bool = False,
    label: str = "",
) -> Measurement:
    """Measure a block outside a test run: as the fixture's `measure`."""
    return Blocks(Settings()).measure(tolerance, trim=trim, within=within, census=census, label=label)


def process(target: Target, *, children: bool = False) -> Blocks:
    """Measure another process outside a test run: as the fixture's `process`."""
    return Blocks(Settings()).process(target, children=children)


__all__ = [
    "Blocks",
    "Measurement",
    "SettingError",
    "UnknownArgumentError",
    "announce",
    "failure",
    "measure",
    "message",
    "process",
    "process_guard",
    "returns",
]
