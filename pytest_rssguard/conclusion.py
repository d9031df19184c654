"""From two readings and a census to accounts, evidence and a verdict.

Reads nothing of a process but the libraries it has mapped: whether one of those keeps memory of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_rssguard import ledger
from pytest_rssguard.classes import classify
from pytest_rssguard.growth import allocator_growth, mapped_growth
from pytest_rssguard.model import Account, Census, Evidence, Limit, Outcome, Snapshot, Verdict
from pytest_rssguard.private import find_private_allocators
from pytest_rssguard.verdict import judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the allocators of a process can tell.

    `blind`: why what is live cannot be told from what is free, or "". `python_in_malloc`: Python's objects come from
    malloc, so pymalloc's accounts are zero. `python_in_mimalloc`: they come from CPython's own mimalloc.
    """

    blind: str = ""
    python_in_malloc: bool = False
    python_in_mimalloc: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What was read: `old` at the baseline, `new` at the end, the census `taken` after it and `then` before it, if any.

    `trimmed`: whether the heaps were trimmed for the baseline. `emptied`: bytes that trims of ours had given back by then,
    so that refilling as much is no growth for the user. `drift`: bytes by which `old` may be off, where parts of it are
    older than the baseline.
    """

    old: Snapshot
    new: Snapshot
    taken: Census | None = None
    then: Census | None = None
    trimmed: bool = True
    emptied: int = 0
    drift: int = 0

    @property
    def closes(self) -> bool:
        """Whether a census was taken whose checks closed."""
        return self.taken is not None and self.taken.closes


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What the readings mean. `hole`: bytes of heap that only trims of ours had emptied before the body."""

    verdict: Verdict
    evidence: Evidence
    hole: int

    @property
    def fails(self) -> bool:
        """Whether this is anything but `returned`."""
        return self.verdict.outcome is not Outcome.RETURNED


def conclude(readings: Readings, limit: Limit, knowledge: Knowledge) -> Conclusion:
    """Close the books over `readings` and judge them against `limit`."""
    old, new = readings.old, readings.new
    accounts, slack = _accounts(readings, knowledge)
    mapped = hole = refilled = 0
    if new.mappings and old.mappings:
        before, after = classify(old), classify(new)
        mapped = mapped_growth(old, new, before, after)
        room = (old.malloc.arena + old.malloc.cut if old.malloc else 0) - before.heap - before.thread_heaps
        hole = max(0, min(readings.emptied, room))
        refilled = min(hole, max(0, after.heap + after.thread_heaps - before.heap - before.thread_heaps))
    known = accounts[Account.MAPPED] is not None
    evidence = Evidence(
        growth=new.rss - old.rss,
        growth_untrimmed=new.rss - old.rss - refilled,
        accounts=accounts,
        allocated=allocator_growth(old, new) + (mapped if known else 0),
        allocated_mapped=max(0, mapped) if known else 0,
        held_slack=slack,
        slack_why="parts of its baseline are older than the test" if readings.drift and readings.closes else "",
        blind=knowledge.blind,
    )
    verdict = judge(evidence, limit)
    if verdict.outcome in {Outcome.LEAKED, Outcome.GREW} and (accounts[Account.MAPPED] or 0) > 0:
        found = find_private_allocators(new.mappings, interpreter_uses_mimalloc=knowledge.python_in_mimalloc)
        evidence = replace(evidence, private_allocators=tuple(found))
        verdict = judge(evidence, limit)
    return Conclusion(verdict=verdict, evidence=evidence, hole=hole)


def _accounts(readings: Readings, knowledge: Knowledge) -> tuple[dict[Account, int | None], int]:
    """Return the accounts, and by how much less than they say may be held."""
    old, new, taken = readings.old, readings.new, readings.taken
    slack = readings.drift
    if taken is not None and taken.closes:
        then = readings.then if readings.then and readings.then.closes else None
        accounts = dict(ledger.by_census(old, new, taken, then, trimmed=readings.trimmed))
    else:
        accounts = dict(ledger.by_counters(old, new))
        slack += ledger.live_slack(old, new, accounts) if taken is not None else 0
    if knowledge.blind:
        # what is held and what is kept free are both somewhere in anonymous memory: not told apart
        accounts[Account.MAPPED] = None
    if knowledge.python_in_malloc:
        accounts[Account.PYTHON_LIVE] = accounts[Account.POOL_FREE] = 0
    return ledger.booked(new.rss - old.rss, accounts), slack
