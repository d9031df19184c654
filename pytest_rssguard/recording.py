"""From a result to the record that reports read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from pytest_rssguard.api import announce, message
from pytest_rssguard.explain import tell_rounds
from pytest_rssguard.heapmap import draw
from pytest_rssguard.hints import hints
from pytest_rssguard.ledger import booked
from pytest_rssguard.model import Outcome
from pytest_rssguard.record import Block, Record
from pytest_rssguard.result import Result
from pytest_rssguard.settings import Settings

_MOST_PINS: Final = 8
_MOST_MAPPINGS: Final = 12
#: A drawing has up to 10 KB, and every record travels in the test's report.
_MOST_HEAPS: Final = 4


def make_record(
    item: pytest.Item, settings: Settings, result: Result, *, judged: bool, blocks: tuple[Block, ...], worker: str | None
) -> Record:
    """Return the record of one measured test."""
    failed = result.verdict.outcome is not Outcome.RETURNED
    pins = sorted(result.census.pins.items(), key=lambda pin: -pin[1])[:_MOST_PINS] if result.census else []
    path, line, _ = item.location
    rounds = [{"growth": each.growth, "held": each.held, "retained": each.retained} for each in result.rounds]
    one = {"growth": result.growth, "held": result.held, "retained": result.retained}
    return Record(
        nodeid=item.nodeid, outcome=result.verdict.outcome, masked=result.verdict.masked, judged=judged,
        tolerance=result.limit.tolerance, basis=result.basis, rss_untrimmed=result.rss_untrimmed,
        rss_before=result.rss_before, rss_after=result.rss_after, rss_settled=result.rss_settled,
        growth=result.growth, allocated=result.allocated, held=result.held, retained=result.retained,
        collected=result.collected, accounts=result.accounts, rounds=tuple(rounds) or (one,), blocks=blocks,
        message=announce(result) if failed else "", hints=tuple(_told(result)), reason=settings.reason, worker=worker,
        seconds=result.seconds, pins=tuple(pins),
        released=(result.released.predicted, result.released.observed) if result.released else None,
        mappings=tuple(_mappings(result)) if failed else (),
        text=message(result, nodeid=item.nodeid, reason=settings.reason) if failed else "",
        heap_map=draw(result.census)[:_MOST_HEAPS] if failed and result.census else (),
        file=path, line=None if line is None else line + 1,
    )  # fmt: skip


def make_unjudged(
    item: pytest.Item, settings: Settings, why: str, *, blocks: tuple[Block, ...], worker: str | None
) -> Record:  # fmt: skip
    """Return the record of a test that failed or skipped on its own."""
    path, line, _ = item.location
    return Record(
        nodeid=item.nodeid, outcome=Outcome.NOT_JUDGED, judged=False, tolerance=settings.limit.tolerance,
        rss_untrimmed=0, rss_before=0, rss_after=0, rss_settled=0, growth=0, allocated=None, held=0, retained=0,
        collected=0, accounts=booked(0, {}), blocks=blocks, message=f"not judged: {why}", reason=settings.reason,
        worker=worker, file=path, line=None if line is None else line + 1,
    )  # fmt: skip


def _told(result: Result) -> Iterator[str]:
    """Yield the hints; of a body that passed in the end, what its first round cost."""
    if result.rounds and result.verdict.outcome is Outcome.RETURNED and result.rounds[0].growth > result.limit.tolerance:
        yield tell_rounds(result)
    yield from hints(result)


def _mappings(result: Result) -> Iterator[tuple[str, int, int]]:
    """Yield (name, resident bytes before, after) of the names whose mappings changed most."""
    if result.before is None or result.after is None:
        return
    sizes: dict[str, tuple[int, int]] = {}
    for region in result.before.mappings:
        name = region.path.rsplit("/", 1)[-1] or "anonymous memory"
        old, new = sizes.get(name, (0, 0))
        sizes[name] = (old + region.rss, new)
    for region in result.after.mappings:
        name = region.path.rsplit("/", 1)[-1] or "anonymous memory"
        old, new = sizes.get(name, (0, 0))
        sizes[name] = (old, new + region.rss)
    changed = [(name, old, new) for name, (old, new) in sizes.items() if old != new]
    yield from sorted(changed, key=lambda each: abs(each[2] - each[1]), reverse=True)[:_MOST_MAPPINGS]
