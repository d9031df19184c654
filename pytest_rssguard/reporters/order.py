"""In which order reports list tests, and how they count them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pytest_rssguard.model import Outcome
from pytest_rssguard.record import Record

#: What matters most comes first.
OUTCOMES: Final = (
    Outcome.LEAKED, Outcome.RETAINED, Outcome.GREW, Outcome.UNMEASURABLE, Outcome.NOT_JUDGED, Outcome.RETURNED,
)  # fmt: skip


def worst_first(records: Iterable[Record]) -> list[Record]:
    """Return `records` by outcome; of one outcome the regressions first, then the largest growth, a hidden leak's by held."""
    return sorted(
        records,
        key=lambda each: (OUTCOMES.index(each.outcome), each.regression is None, -max(each.growth, each.held)),
    )


def counts(records: Sequence[Record]) -> Iterator[str]:
    """Yield "1 leaked", "12 returned" and so on, worst first, and how many regressed against their baseline."""
    for outcome in OUTCOMES:
        if found := sum(record.outcome is outcome for record in records):
            yield f"{found} {outcome.value}"
    if regressions := sum(record.regression is not None for record in records):
        yield f"{regressions} regressed"
