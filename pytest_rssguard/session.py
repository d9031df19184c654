"""One pytest session's guard: markers to settings, results to records, outcomes to failures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from pytest_rssguard.api import Blocks, Measurement, announce, failure, message
from pytest_rssguard.errors import RssGuardError, SettingError
from pytest_rssguard.failures import RssGuardWarning, RssRegression
from pytest_rssguard.model import Outcome
from pytest_rssguard.options import base_settings, unmeasurable_policy, wants
from pytest_rssguard.record import Block, Record, brief
from pytest_rssguard.repetition import why_not_repeatable
from pytest_rssguard.result import Result
from pytest_rssguard.settings import Settings, marker_arguments, merge
from pytest_rssguard.watch import Look

if TYPE_CHECKING:
    from pytest_rssguard.checkpoint import Checkpoint, Finding

#: Where the regression gate stands in the config, if there is one.
CHECKPOINT: Final[pytest.StashKey[Checkpoint]] = pytest.StashKey()
#: The name of our property in item.user_properties: the only channel that survives xdist, reruns and isolation plugins.
PROPERTY: Final = "rssguard"
#: How the test stands against the baseline: a gate.Standing.
STANDING: Final = "rssguard_gate"
#: What JUnit shows of a test: flat values, in bytes.
_NAMES: Final = (PROPERTY, *(f"{PROPERTY}_{name}" for name in ("outcome", "growth", "held", "retained")))
_FAILS: Final = {Outcome.LEAKED, Outcome.RETAINED, Outcome.GREW}
_SEVERITY: Final = (
    Outcome.RETURNED, Outcome.NOT_JUDGED, Outcome.UNMEASURABLE, Outcome.GREW, Outcome.RETAINED, Outcome.LEAKED,
)  # fmt: skip


class Session:
    """What this process needs to guard tests. Made when the first guarded test is collected or run."""

    def __init__(self, config: pytest.Config) -> None:
        try:
            self.base = base_settings(config)
            self.limit = self.base.limit  # worked out once: it is asked for twice a test under --rssguard-all
            self._unmeasurable = unmeasurable_policy(config)
        except SettingError as error:
            raise pytest.UsageError(str(error)) from None
        self.all, self.judge_all = wants(config, "all"), wants(config, "judge-all")
        self._flat = bool(config.getoption("xmlpath", None))
        self.off = bool(config.getoption("rssguard_off"))
        self._worker: str | None = os.environ.get("PYTEST_XDIST_WORKER") if hasattr(config, "workerinput") else None
        self._seen: set[int] = set()
        self._done: list[Measurement] = []
        self.checkpoint = config.stash.get(CHECKPOINT, None)
        self.blocks = Blocks(self.base, off=self.off, done=self._block_done)

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
        arguments = [marker_arguments(mark.args, mark.kwargs) for mark in item.iter_markers("rss_returns")]
        settings = merge(self.base, arguments)
        if settings.rounds + settings.warmup > 1 and (why := why_not_repeatable(item)):
            for name, neutral in (("rounds", 1), ("warmup", 0)):
                asked = next((each[name] for each in arguments if each.get(name) is not None), neutral)
                if asked != neutral:
                    raise SettingError(
                        name=name, given=asked, accepted=f"{neutral} for this test", advice=f"it cannot run twice: {why}"
                    )
            settings = settings.with_arguments({"rounds": 1, "warmup": 0})
        return settings

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

    def check(self, item: pytest.Item, *, begun: bool) -> None:
        """Fail the setup of an item whose marker was added late and is bad. `begun`: its whole test is being measured."""
        path, line, _ = item.location
        place = f"{path}:{(line or 0) + 1}: rss_returns: "
        try:
            settings = self.settings(item)
        except RssGuardError as error:
            pytest.fail(f"{place}{error}", pytrace=False)
        if settings.whole_test and not begun and not self.off:
            pytest.fail(
                f"{place}scope='test' was set after setup began: expected on a marker that stands before; put it on the "
                "test, or add it in pytest_collection_modifyitems",
                pytrace=False,
            )

    def enforce(self, item: pytest.Item, settings: Settings, result: Result) -> None:
        """Raise, warn or skip as the outcome asks for."""
        outcome = result.verdict.outcome
        if outcome is Outcome.UNMEASURABLE and self._unmeasurable == "skip":
            pytest.skip(announce(result))
        fails = outcome in _FAILS and not (outcome is Outcome.RETAINED and settings.warns)
        if fails or (outcome is Outcome.UNMEASURABLE and self._unmeasurable == "fail"):
            raise failure(result, nodeid=item.nodeid, reason=settings.reason)
        if outcome in {Outcome.UNMEASURABLE, Outcome.RETAINED}:
            text = message(result, nodeid=item.nodeid, reason=settings.reason)
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

    @property
    def has_blocks(self) -> bool:
        """Whether the test at hand has measured blocks."""
        return bool(self._done)

    def finish_blocks(self, item: pytest.Item) -> None:
        """Write the record of an unmarked test that measured blocks."""
        if not self._done:
            return
        if self.off:
            self._done.clear()
            return
        worst = max(self._done, key=lambda each: (each.judged, _SEVERITY.index(each.outcome)))
        self.note(item, worst.settings, worst.result, judged=worst.judged)

    def _take_blocks(self) -> tuple[Block, ...]:
        done, self._done = self._done, []
        return tuple(
            Block(
                label=each.label, outcome=each.outcome, growth=each.growth, held=each.held, retained=each.retained,
                accounts=each.ledger,
            )
            for each in done
        )  # fmt: skip

    def note(self, item: pytest.Item, settings: Settings, result: Result, *, judged: bool = True) -> Record:
        """Put what was found on `item` where reports find it; return it."""
        from pytest_rssguard.recording import make_record

        record = make_record(
            item, settings, result, judged=judged, blocks=self._take_blocks(), worker=self._worker
        )  # fmt: skip
        self._attach(item, record)
        return record

    def note_brief(self, item: pytest.Item, *, begun: Look, ended: Look, judged: bool) -> None:
        """Put on `item` that a cheap look has found nothing over the tolerance."""
        path, line, _ = item.location
        text = brief(
            nodeid=item.nodeid, tolerance=self.limit.tolerance, before=begun.rss, after=ended.rss,
            live=ended.live - begun.live, nanoseconds=ended.at - begun.at, judged=judged, worker=self._worker,
            file=path, line=line,
        )  # fmt: skip
        growth, live = ended.rss - begun.rss, ended.live - begun.live
        attach(item, text, (Outcome.RETURNED.value, growth, live, -live) if self._flat else ())

    def note_unjudged(self, item: pytest.Item, settings: Settings, why: str) -> None:
        """Put on `item` that its own failure or skip stands."""
        from pytest_rssguard.recording import make_unjudged

        self._attach(item, make_unjudged(item, settings, why, blocks=self._take_blocks(), worker=self._worker))

    def _attach(self, item: pytest.Item, record: Record) -> None:
        flat = (record.outcome.value, record.growth, record.held, record.retained) if self._flat else ()
        attach(item, record.dumps(), flat)

    def note_finding(
        self, item: pytest.Item, settings: Settings, finding: Finding, *, record: Record | None, judged: bool
    ) -> None:  # fmt: skip
        """Put on `item` how it stands against the baseline; raise or warn as that asks for.

        `record`: what is on `item`, None where a cheap look left one that the measured second run now replaces.
        """
        if finding.excess is not None and finding.result is not None:
            record = record or self.note(item, settings, finding.result, judged=judged)
            regression = {"baseline": finding.excess.baseline, "limit": finding.excess.limit}
            text = finding.text
            self._attach(item, replace(record, regression=regression, text=text, message=text.partition("\n")[0]))
        item.user_properties[:] = [each for each in item.user_properties if each[0] != STANDING]
        item.user_properties.append((STANDING, finding.standing.value))
        if finding.excess is not None:
            raise RssRegression(finding.text.partition(": ")[2])
        if finding.text:
            item.warn(RssGuardWarning(finding.text))


def attach(item: pytest.Item, text: str, flat: tuple[str | int, ...]) -> None:
    """Put a record on `item`, as text, and the flat values that JUnit shows; a rerun replaces the one before."""
    properties = item.user_properties
    if properties and any(name == PROPERTY for name, _ in properties):
        properties[:] = [each for each in properties if each[0] not in {*_NAMES, STANDING}]
    properties.append((PROPERTY, text))
    if flat:
        properties.extend(zip(_NAMES[1:], flat, strict=True))
