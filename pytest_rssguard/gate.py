"""The regression gate's rules: what is a regression, what an update writes, which tests are new or stale. Pure.

A regression needs all of: over the baseline by more than 1 MiB; over it by more than 10 %; and, where the entry has at least
5 samples, over their median by more than 4 x 1.4826 x MAD (the median absolute deviation, which 1.4826 scales to a standard
deviation). Noise is one-sided, so of several rounds the one that held least counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import floor
from typing import Final

from pytest_rssguard.baseline import MOST_SAMPLES, Baseline, Entry, round_up
from pytest_rssguard.record import Record

FLOOR: Final = 1 << 20
PERCENT: Final = 10
LEAST_SAMPLES: Final = 5
_DEVIATIONS: Final = 4 * 1.4826


class Metric(StrEnum):
    """What is compared."""

    HELD = "held"
    RETAINED = "retained"


class Mode(StrEnum):
    """What an update may do."""

    NEW = "new"
    RATCHET = "ratchet"
    ALL = "all"
    PRUNE = "prune"


class Standing(StrEnum):
    """How a test stands against the baseline: the property rssguard_gate of its report."""

    #: Not over a limit.
    WITHIN = "within"
    #: The baseline has no entry for it.
    NEW = "new"
    #: Over a limit, twice where that could be tried: the test fails.
    REGRESSED = "regressed"
    #: Over a limit in a run that writes the new sizes.
    ACCEPTED = "accepted"
    #: Over a limit, with an entry that says until when this is known.
    WAIVED = "waived"
    #: Over a limit, but the test itself is another than the entry's: a warning.
    CHANGED = "changed"
    #: Over the limit of retained memory, where the marker says that retained memory only warns.
    WARNED = "warned"
    #: Over a limit at first, and not when the body ran again: first-use cost.
    ONCE = "once"
    #: Over a limit, and the second run raised: a warning.
    UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What one test held and retained, in bytes."""

    held: int
    retained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """One size over its limit, in bytes."""

    metric: Metric
    found: int
    baseline: int
    limit: int
    samples: int = 0


def limit(baseline: int, samples: Collection[int] = ()) -> int:
    """Return the largest size in bytes that is no regression against `baseline`. Grows with `baseline`."""
    limits = [baseline + FLOOR, baseline * (100 + PERCENT) // 100]
    if len(samples) >= LEAST_SAMPLES:
        middle = _median(samples)
        limits.append(floor(middle + _DEVIATIONS * _median([abs(each - middle) for each in samples])))
    return max(limits)


def _median(numbers: Collection[float]) -> float:
    """Return the median. The module statistics costs a guarded process 1 MiB of imports (decimal, fractions)."""
    ordered = sorted(numbers)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def least(record: Record, metric: Metric) -> int:
    """Return the least of what the rounds of `record` held or retained, in bytes."""
    return min((round_[metric] for round_ in record.rounds if metric in round_), default=getattr(record, metric))


def sizes(record: Record) -> Sizes:
    """Return what counts of `record`: the least of its rounds."""
    return Sizes(held=least(record, Metric.HELD), retained=least(record, Metric.RETAINED))


def compare(entry: Entry, sizes: Sizes) -> Iterator[Excess]:
    """Yield what `sizes` has more than `entry` allows: held before retained."""
    for metric, base, samples in _metrics(entry):
        found, most = int(getattr(sizes, metric)), limit(base, samples)
        if found > most:
            yield Excess(metric=metric, found=found, baseline=base, limit=most, samples=len(samples))


def _metrics(entry: Entry) -> Iterator[tuple[Metric, int, tuple[int, ...]]]:
    yield Metric.HELD, entry.held, entry.samples
    yield Metric.RETAINED, entry.retained, entry.retained_samples


def improves(entry: Entry, sizes: Sizes) -> bool:
    """Whether `sizes` has clearly less of something than `entry`: by more than 1 MiB and 10 %."""
    return any(
        getattr(sizes, metric) < base and _differs(base, max(getattr(sizes, metric), 0)) for metric, base, _ in _metrics(entry)
    )


def make_entry(record: Record, *, src: str = "") -> Entry:
    """Return the entry that `record` makes."""
    rounds = record.rounds[:MOST_SAMPLES] or ({"held": record.held, "retained": record.retained},)
    retained = tuple(round_up(round_["retained"]) for round_ in rounds if "retained" in round_)
    return Entry(
        held=round_up(least(record, Metric.HELD)),
        retained=round_up(least(record, Metric.RETAINED)),
        samples=tuple(round_up(round_["held"]) for round_ in rounds if "held" in round_),
        retained_samples=retained if len(retained) > 1 else (),
        src=src,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry that an update touches; `old` is None for an added one, `new` for a dropped one."""

    nodeid: str
    old: Entry | None
    new: Entry | None

    @property
    def kind(self) -> str:
        """One word."""
        if self.old is None:
            return "added"
        if self.new is None:
            return "dropped"
        moved = (self.new.held - self.old.held, self.new.retained - self.old.retained)
        if any(each > 0 for each in moved):
            return "raised"
        return "lowered" if any(moved) else "renewed"


def update(
    baseline: Baseline, measured: Mapping[str, Entry], mode: Mode, *, stale: Collection[str] = ()
) -> tuple[Baseline, tuple[Change, ...]]:
    """Return `baseline` as `mode` leaves it after a run that `measured` entries, and what changed, sorted.

    `stale` entries go with `prune` only. Applied twice it changes nothing more.
    """
    tests = dict(baseline.tests)
    if mode is Mode.PRUNE:
        for nodeid in stale:
            tests.pop(nodeid, None)
    else:
        for nodeid, entry in measured.items():
            tests[nodeid] = _merged(tests.get(nodeid), entry, mode)
    names = sorted(baseline.tests.keys() | tests.keys())
    changes = (Change(nodeid=name, old=baseline.tests.get(name), new=tests.get(name)) for name in names)
    return replace(baseline, tests=tests), tuple(change for change in changes if change.old != change.new)


def _merged(old: Entry | None, new: Entry, mode: Mode) -> Entry:
    if old is None:
        return new
    if mode is Mode.ALL:
        moved = _differs(old.held, new.held) or _differs(old.retained, new.retained)
        return replace(new, note=old.note, expires=old.expires) if moved else replace(old, src=new.src or old.src)
    if mode is Mode.RATCHET:
        return _ratchet(old, new)
    return old


def _ratchet(old: Entry, new: Entry) -> Entry:
    """Return `old` with each size lowered to the new one where that is clearly less: no limit ever rises."""
    entry = old
    if new.held < old.held and _differs(old.held, new.held):
        samples = new.samples if limit(new.held, new.samples) <= limit(old.held, old.samples) else ()
        entry = replace(entry, held=new.held, samples=samples)
    if new.retained < old.retained and _differs(old.retained, new.retained):
        samples = new.retained_samples
        if limit(new.retained, samples) > limit(old.retained, old.retained_samples):
            samples = ()
        entry = replace(entry, retained=new.retained, retained_samples=samples)
    fits = new.held <= limit(old.held, old.samples) and new.retained <= limit(old.retained, old.retained_samples)
    return replace(entry, src=new.src or old.src) if fits else entry


def _differs(old: int, new: int) -> bool:
    """Whether two sizes differ by more than noise: 1 MiB and 10 %."""
    return abs(new - old) > FLOOR and abs(new - old) * 100 > old * PERCENT


def find_nearest(key: str, others: Iterable[str]) -> tuple[str, list[tuple[str, str]]] | None:
    """Return the environment of `others` nearest to `key`, and what differs as (theirs, ours); None without others."""
    ours = key.split("-")

    def difference(other: str) -> list[tuple[str, str]]:
        theirs = other.split("-")
        length = max(len(ours), len(theirs))
        pairs = zip(theirs + ["nothing"] * (length - len(theirs)), ours + ["nothing"] * (length - len(ours)), strict=True)
        return [pair for pair in pairs if pair[0] != pair[1]]

    ranked = sorted((len(difference(other)), other) for other in others if other != key)
    return (ranked[0][1], difference(ranked[0][1])) if ranked else None
