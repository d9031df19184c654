"""Two runs side by side, base against head: the gate's rule between their reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pytest_rssguard.baseline import Entry
from pytest_rssguard.errors import UnreadableReportError
from pytest_rssguard.gate import Excess, Sizes, compare, find_nearest, improves, sizes
from pytest_rssguard.model import Outcome
from pytest_rssguard.record import Record
from pytest_rssguard.report_file import Run

_UNKNOWN: Final = {Outcome.UNMEASURABLE, Outcome.NOT_JUDGED}


class Kind(StrEnum):
    """How a test of head stands against base, the worst first."""

    REGRESSED = "regressed"
    #: One of the two runs could not measure it.
    UNKNOWN = "unknown"
    IMPROVED = "improved"
    NEW = "new"
    GONE = "gone"
    SAME = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One test in both runs; None where a run has not measured it. `excesses`: what is over its limit."""

    nodeid: str
    kind: Kind
    base: Sizes | None
    head: Sizes | None
    excesses: tuple[Excess, ...] = ()


def compare_runs(base: Run, head: Run) -> tuple[Row, ...]:
    """Return a row for each test of the two runs: the worst kind first, then by name."""
    old = {record.nodeid: record for record in base.records}
    new = {record.nodeid: record for record in head.records}
    rows = [_row(nodeid, old.get(nodeid), new.get(nodeid)) for nodeid in old.keys() | new.keys()]
    order = tuple(Kind)
    return tuple(sorted(rows, key=lambda row: (order.index(row.kind), row.nodeid)))


def _row(nodeid: str, old: Record | None, new: Record | None) -> Row:
    base, head = _known(old), _known(new)
    if old is None or new is None:
        return Row(nodeid=nodeid, kind=Kind.NEW if old is None else Kind.GONE, base=base, head=head)
    if base is None or head is None:
        return Row(nodeid=nodeid, kind=Kind.UNKNOWN, base=base, head=head)
    entry = Entry(
        held=max(base.held, 0), retained=max(base.retained, 0), samples=_samples(old, "held"),
        retained_samples=_samples(old, "retained"),
    )  # fmt: skip
    excesses = tuple(compare(entry, head))
    kind = Kind.REGRESSED if excesses else Kind.IMPROVED if improves(entry, head) else Kind.SAME
    return Row(nodeid=nodeid, kind=kind, base=base, head=head, excesses=excesses)


def _known(record: Record | None) -> Sizes | None:
    return None if record is None or record.outcome in _UNKNOWN else sizes(record)


def _samples(record: Record, name: str) -> tuple[int, ...]:
    return tuple(round_[name] for round_ in record.rounds if name in round_)


def require_same_environment(runs: Mapping[str, Run]) -> None:
    """Raise UnreadableReportError unless all `runs`, by the name of their file, are of one environment."""
    keys: Sequence[tuple[str, str]] = [
        (name, key) for name, run in runs.items() if isinstance(key := run.environment.get("key"), str)
    ]
    for name, key in keys[1:]:
        first, expected = keys[0]
        if key != expected:
            _, pairs = find_nearest(key, [expected]) or ("", [])
            differs = ", ".join(f"{theirs} against {ours}" for theirs, ours in pairs)
            raise UnreadableReportError(f"{first} and {name} are of different environments, not to be compared: {differs}")
