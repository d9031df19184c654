"""A look at every test that is cheap enough to leave on: counters first, and more only where they moved.

Around a test that does nothing this reads statm, mallinfo2 and the number of Python's blocks twice, and collects no
garbage: a full collection takes 25-95 ms in a loaded interpreter, and pytest's own objects grow with the suite. What the
mappings were before a test that did move comes from the last full reading; one is taken again when RSS or the number of
blocks has drifted away from it, so that its age is bounded in bytes, and what it may be off by is in the evidence.
"""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass, replace
from typing import Final

from pytest_rssguard import ledger
from pytest_rssguard.allocators.glibc import Mallinfo2, statistics
from pytest_rssguard.conclusion import Readings, conclude
from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.guard import Guard
from pytest_rssguard.interpreter import collect_garbage, drop_last_exception
from pytest_rssguard.model import Basis, Limit, Snapshot
from pytest_rssguard.result import Result

#: The largest block of pymalloc, in bytes: what that many more blocks can have added at most.
_LARGEST_BLOCK: Final = 512
#: What a Python block has on average (docs/evidence.md): for the age of a reading, not for accounts.
_USUAL_BLOCK: Final = 64


@dataclass(slots=True)
class Look:
    """What the counters said at one moment: bytes, a number of pymalloc blocks, nanoseconds.

    `own`: bytes of shared memory that are the guard's own. `emptied`: by trims of ours, at most (Trims).
    """

    size: int
    rss: int
    malloc: Mallinfo2
    live: int
    blocks: int
    at: int
    own: int
    emptied: int


class Watch:
    """Looks at tests. `blind`: why it cannot, or ""."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._probe = guard.probe
        self.blind = guard.blind or guard.knowledge().blind
        if not self.blind:
            guard.make_ready()
            self._base, self._spare = self._probe.new_slot(), self._probe.new_slot()
            self._last = self._read()

    def _look(self) -> Look:
        size, rss = self._probe.look()
        malloc = self._probe.malloc.mallinfo()
        live, blocks, own = malloc.uordblks + malloc.hblkhd, sys.getallocatedblocks(), self._probe.own_bytes
        return Look(size, rss, malloc, live, blocks, time.perf_counter_ns(), own, self._guard.trims.emptied)

    def _read(self) -> Look:
        """Take a full reading, to be what later tests began with."""
        self._probe.read(self._base)
        return self._look()

    def begin(self, limit: Limit) -> Look | None:
        """Look before a test; read in full where the last full reading is too far from now. None: /proc does not answer."""
        drop_last_exception()
        try:
            look = self._look()
            if self._age(look) > limit.tolerance // 4 or look.own != self._last.own:
                if look.own == self._last.own and self._rss_age(look) <= 3 * limit.tolerance // 16:
                    self._probe.read_pools(self._base)  # 0.1 ms, a full reading takes 2
                    self._last.blocks = sys.getallocatedblocks()
                else:
                    self._last = self._read()
                look = self._look()
        except (OSError, UnreadableError):
            return None
        return look

    def _age(self, look: Look) -> int:
        return self._rss_age(look) + abs(look.blocks - self._last.blocks) * _USUAL_BLOCK

    def _rss_age(self, look: Look) -> int:
        return abs(look.rss - self._last.rss)

    def end(self, begun: Look, limit: Limit, *, trim: bool) -> Result | Look:
        """Look after a test. A Look: nothing has moved past the tolerance; a Result: something has, and this is what."""
        try:
            return self._end(begun, limit, trim=trim)
        except (OSError, UnreadableError) as error:
            return self._guard.unmeasured(limit, error, rss=begun.rss)

    def _end(self, begun: Look, limit: Limit, *, trim: bool) -> Result | Look:
        look = self._look()
        tolerance = limit.tolerance
        seconds = (look.at - begun.at) / 1e9
        if self._moved(begun, look, tolerance):
            drop_last_exception()
            gc.collect(1)
            later = self._look()
            if self._moved(begun, later, tolerance):
                return self._examine(begun, look, limit, seconds, trim=trim)
            look = later
        if look.size - begun.size > tolerance and self._mapped(begun, look) > tolerance:
            return self._examine(begun, look, limit, seconds, trim=trim)
        return look

    @staticmethod
    def _moved(begun: Look, look: Look, tolerance: int) -> bool:
        return (
            look.rss - begun.rss > tolerance
            or look.live - begun.live > tolerance
            or (look.blocks - begun.blocks) * _LARGEST_BLOCK > tolerance
        )

    def _mapped(self, begun: Look, look: Look) -> int:
        """Return how much more is held, by a full reading without a collection: address space alone says little."""
        self._probe.prepare(self._spare)
        self._probe.read(self._spare)
        held = ledger.held(ledger.by_counters(self._began(begun), self._probe.decode(self._spare)))
        self._base, self._spare = self._spare, self._base
        self._last = look
        return held

    def _began(self, begun: Look) -> Snapshot:
        """Return the baseline: counters of then, mappings of the last full reading."""
        old = self._probe.decode(self._base)
        cached, cut = (old.malloc.tcache, old.malloc.cut) if old.malloc else (None, 0)
        malloc = replace(statistics(begun.malloc), tcache=cached, cut=cut)
        return replace(old, rss=begun.rss, vm_size=begun.size, malloc=malloc)

    def _examine(self, begun: Look, look: Look, limit: Limit, seconds: float, *, trim: bool) -> Result:
        """Settle as for a guarded test, read in full, take the census if it is still there, and judge."""
        probe, guard = self._probe, self._guard
        probe.prepare(self._spare)
        collect_garbage()
        collected = look.rss - probe.rss()
        if trim:
            guard.trims.trim()
        probe.read(self._spare)
        last = self._look()
        own = probe.own_bytes - begun.own
        counters = probe.counters(self._spare)
        counters = replace(counters, rss=counters.rss - own, own=own)
        # before anything is decoded: freeing what that takes can make glibc give back the end of the heap, and the census
        # would then not be of what was read (17 MiB that pandas' xz tests had freed read as unexplained)
        moved = counters.rss - begun.rss > limit.tolerance or self._moved(begun, last, limit.tolerance)
        taken = guard.take_census(self._base) if moved else None
        old, new = self._began(begun), replace(probe.decode(self._spare), rss=counters.rss, own=own)
        readings = Readings(
            old=old, new=new, taken=taken, trimmed=False, emptied=begun.emptied, drift=self._age(begun) if taken else 0
        )  # fmt: skip
        found = conclude(readings, limit, guard.knowledge())
        self._base, self._spare = self._spare, self._base
        self._last = last
        return Result(
            verdict=found.verdict, evidence=found.evidence, limit=limit, trim=trim,
            basis=Basis.CENSUS if readings.closes else Basis.COUNTERS, accounts=found.evidence.accounts,
            rss_untrimmed=old.rss + found.hole, rss_before=old.rss, rss_after=look.rss, rss_settled=new.rss,
            collected=collected, allocated=found.evidence.allocated, census=taken, before=old, after=new,
            private_allocators=found.evidence.private_allocators, seconds=seconds,
        )  # fmt: skip
