"""Measure another process: a child or a server that a test has started, read from outside at both ends.

Nothing is loaded into it and nothing is asked of it: no collection, no trim. A census at each end makes its accounts
page-exact. Its children can be measured with it; the sizes of all are summed, so a page that a fork shares counts in each.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import psutil

from pytest_rssguard import ledger
from pytest_rssguard.classes import classify
from pytest_rssguard.conclusion import Knowledge, Readings, conclude
from pytest_rssguard.errors import ProcessError, SettingError
from pytest_rssguard.external import read_process
from pytest_rssguard.growth import allocator_growth, mapped_growth
from pytest_rssguard.model import Account, Basis, Census, Evidence, Limit, Outcome, Snapshot
from pytest_rssguard.result import Result
from pytest_rssguard.span import Plan
from pytest_rssguard.verdict import judge

#: The first and the longest pause between two looks within `within`, in seconds.
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.25
_NAME: Final = 60

Target = int | subprocess.Popen[bytes] | subprocess.Popen[str] | psutil.Process
_NOTHING: Final = Snapshot(rss=0, vm_size=0)


def pid_of(target: object) -> int:
    """Return the pid of a pid, a subprocess.Popen or a psutil.Process. Raises SettingError for anything else."""
    pid = target if isinstance(target, int) else getattr(target, "pid", None)
    if isinstance(pid, bool) or not isinstance(pid, int) or pid <= 0:
        raise SettingError(name="process", given=target, accepted="a pid, a subprocess.Popen or a psutil.Process")
    return pid


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One process at one instant."""

    name: str
    snapshot: Snapshot
    census: Census


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The baseline of one measurement: every process by (pid, start time)."""

    limit: Limit
    plan: Plan
    readings: Mapping[tuple[int, float], Reading]
    at: int


class ProcessMeter:
    """Measures one process, and its children where they are asked for. Raises ProcessError where it cannot be read."""

    def __init__(self, target: Target, *, children: bool = False) -> None:
        self.pid = pid_of(target)
        self._children = children
        self._read()  # an error now, where the process is named, is better than one at the first block

    def begin(self, limit: Limit, plan: Plan, *, bias: int = 0) -> Begun:
        """Read the baseline. Raises ProcessError, and SettingError for what only this process itself could do."""
        del bias
        if plan.trim:
            raise SettingError(
                name="trim", given=True, accepted="False for another process", advice="nobody can purge it from outside"
            )
        return Begun(limit=limit, plan=plan, readings=self._read(), at=time.perf_counter_ns())

    def cancel(self, begun: Begun) -> None:
        """Forget a measurement whose block failed on its own."""

    def end(self, begun: Begun) -> Result:
        """Read again, within the time that the plan gives until what grew has gone, and say what grew."""
        ended = time.perf_counter_ns()
        deadline = time.monotonic() + begun.plan.within
        pause = _FIRST_PAUSE
        while True:
            result = self._result(begun, self._read(), (ended - begun.at) / 1e9)
            left = deadline - time.monotonic()
            if result.verdict.outcome in {Outcome.RETURNED, Outcome.UNMEASURABLE} or left <= 0:
                return result
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _read(self) -> dict[tuple[int, float], Reading]:
        try:
            root = psutil.Process(self.pid)
            family = [root, *(root.children(recursive=True) if self._children else ())]
        except psutil.NoSuchProcess:
            raise ProcessError(self.pid, "no such process") from None
        except psutil.AccessDenied:
            family = [root]
        found = {}
        for process in family:
            try:
                identity = (process.pid, process.create_time())
                snapshot, census = read_process(process.pid)
            except (psutil.NoSuchProcess, ProcessError):
                if process.pid == self.pid:
                    raise
                continue  # a child that ended meanwhile has no memory any more
            found[identity] = Reading(name=_describe(process), snapshot=snapshot, census=census)
        return found

    def _result(self, begun: Begun, now: Mapping[tuple[int, float], Reading], seconds: float) -> Result:
        parts = [_part(begun.readings.get(key), now.get(key), begun.limit) for key in {**begun.readings, **now}]
        evidence = _summed(parts)
        main = next((key for key in now if key[0] == self.pid), None)
        then = begun.readings.get(main) if main else None
        last = now[main] if main else None
        before = sum(reading.snapshot.rss for reading in begun.readings.values())
        after = sum(reading.snapshot.rss for reading in now.values())
        verdict = judge(evidence, begun.limit)
        closes = bool(now) and all(reading.census.closes for reading in (*begun.readings.values(), *now.values()))
        return Result(
            verdict=verdict, evidence=evidence, limit=begun.limit, trim=False,
            basis=Basis.CENSUS if closes else Basis.COUNTERS, accounts=evidence.accounts, rss_untrimmed=before,
            rss_before=before, rss_after=after, rss_settled=after, collected=0, allocated=evidence.allocated,
            census=last.census if last else None, then=then.census if then else None,
            before=then.snapshot if then else None, after=last.snapshot if last else None,
            private_allocators=evidence.private_allocators, seconds=seconds,
            processes=tuple(_changes(begun.readings, now)),
        )  # fmt: skip


def _describe(process: psutil.Process) -> str:
    try:
        command = " ".join(" ".join(process.cmdline()).split()) or process.name()
    except psutil.Error:
        command = "?"
    return f"{process.pid} {command if len(command) <= _NAME else command[: _NAME - 1] + '…'}"


def _changes(
    before: Mapping[tuple[int, float], Reading], after: Mapping[tuple[int, float], Reading]
) -> Iterable[tuple[str, int]]:  # fmt: skip
    """Yield (name, growth in bytes) of every process, with what became of those that were not there at both ends."""
    for key, reading in {**before, **after}.items():
        old, new = before.get(key), after.get(key)
        name = reading.name + (" (new)" if old is None else " (ended)" if new is None else "")
        yield name, (new.snapshot.rss if new else 0) - (old.snapshot.rss if old else 0)


def _part(old: Reading | None, new: Reading | None, limit: Limit) -> Evidence:
    """Return the evidence of one process; one that is not there at one end had or has nothing."""
    if old is not None and new is not None:
        blind = _blind(old.census) or _blind(new.census)
        readings = Readings(old=old.snapshot, new=new.snapshot, taken=new.census, then=old.census, trimmed=False)
        if not blind:
            return conclude(readings, limit, Knowledge()).evidence
        return _bare(new.snapshot.rss - old.snapshot.rss, blind)
    one = new or old
    assert one is not None
    sign = 1 if new else -1
    if blind := _blind(one.census):
        return _bare(sign * one.snapshot.rss, blind)
    totals = ledger.totals(one.snapshot, one.census)
    accounts: dict[Account, int | None] = {
        account: None if size is None else sign * size for account, size in totals.items()
    }  # fmt: skip
    growth = sign * one.snapshot.rss
    classes = classify(one.snapshot, bss=one.census.bss)
    mapped = mapped_growth(_NOTHING, one.snapshot, classify(_NOTHING), classes)
    allocated = allocator_growth(_empty(one.snapshot), one.snapshot) + mapped
    return Evidence(
        growth=growth, growth_untrimmed=growth, accounts=ledger.booked(growth, accounts),
        allocated=sign * allocated, allocated_mapped=max(0, sign * mapped),
    )  # fmt: skip


def _empty(snapshot: Snapshot) -> Snapshot:
    """Return a process that has taken nothing yet from the allocators that `snapshot` has."""
    malloc = snapshot.malloc and replace(
        snapshot.malloc, arena=0, hblks=0, hblkhd=0, fsmblks=0, uordblks=0, fordblks=0, tcache=0
    )  # fmt: skip
    return replace(_NOTHING, malloc=malloc, pools=snapshot.pools and replace(snapshot.pools, arenas=0, allocated=0))


def _blind(census: Census) -> str:
    """Return why the memory of a process cannot be told apart, or ""."""
    if not census.closes:
        return "; ".join(census.problems)
    if not census.heaps:
        return "no heap of glibc in it: another allocator, or a static program"
    return ""


def _bare(growth: int, blind: str) -> Evidence:
    return Evidence(growth=growth, growth_untrimmed=growth, accounts=ledger.booked(growth, {}), allocated=None, blind=blind)


def _summed(parts: list[Evidence]) -> Evidence:
    """Return all processes as one."""
    if len(parts) == 1:
        return parts[0]
    known: dict[Account, int | None] = {}
    for account in Account:
        sizes = [part.accounts[account] for part in parts if part.accounts[account] is not None]
        known[account] = sum(size or 0 for size in sizes) if sizes else None
    growth = sum(part.growth for part in parts)
    return Evidence(
        growth=growth, growth_untrimmed=growth, accounts=ledger.booked(growth, known),
        allocated=None if any(part.allocated is None for part in parts) else sum(part.allocated or 0 for part in parts),
        allocated_mapped=sum(part.allocated_mapped for part in parts),
        private_allocators=tuple(dict.fromkeys(name for part in parts for name in part.private_allocators)),
        blind="; ".join(dict.fromkeys(part.blind for part in parts if part.blind)),
    )  # fmt: skip
