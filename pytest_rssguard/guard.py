"""The engine: settle, read, let the body run, settle, read, and only then decode, close the books and judge.

Knows nothing of pytest. It returns values; who calls it raises, prints or fails.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from pytest_rssguard import ledger
from pytest_rssguard.arenas import HEAP_MAX
from pytest_rssguard.blind import blind_result, portable_rss, stopped
from pytest_rssguard.classes import classify
from pytest_rssguard.conclusion import Knowledge, Readings, conclude
from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.growth import allocator_growth
from pytest_rssguard.interpreter import clear_type_cache, collect_garbage, collect_young, drop_last_exception, set_aside
from pytest_rssguard.model import Basis, Census, Limit, Outcome, Snapshot
from pytest_rssguard.movement import counters, decoded, moved, moves, suspicious, unlike, waits
from pytest_rssguard.probe import LinuxProbe
from pytest_rssguard.result import Released, Result
from pytest_rssguard.slot import Slot
from pytest_rssguard.span import Held, Plan, Span
from pytest_rssguard.trims import Trims

#: Below this tolerance a young collection is not enough: it leaves some 150 B more than a full one.
_FINE: Final = 64 << 10
#: A round that moved less than this is decoded when all rounds are over: decoding itself takes and gives back arenas of
#: Python's, and the next round would find 200-300 KiB less resident (measured with json bodies at tolerance 0).
_COARSE: Final = 1 << 20
#: Module names are remembered only while their list stays well under 64 KiB (docs/design.md, "Hot and cold").
_MOST_MODULES: Final = 4096
#: The first and the longest pause between two looks within `within`, in seconds.
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.25
if TYPE_CHECKING:
    from pytest_rssguard.self_census import SelfCensus

_PLAIN: Final = Plan()


class Guard:
    """Measures this process. `blind` says why it cannot, or is empty."""

    def __init__(self, probe: LinuxProbe | None = None) -> None:
        self.probe = probe or LinuxProbe()
        self._spare: list[tuple[Slot, Slot]] = []
        self._open: list[Span] = []
        self.trims = Trims(self.probe)
        self.blind = self.probe.why_not
        if not self.blind and sys.implementation.name != "cpython":
            self.blind = f"{sys.implementation.name}: its memory manager is not known here"
        self._census: SelfCensus | None = None
        self._warm = self._rehearsing = False
        #: Whether censuses draw heaps page by page: a few per cent of the walk, for reports that show it.
        self.draws = False

    def make_ready(self) -> None:
        """Make what a census needs: once, and before anything is measured."""
        if not self.blind and self._census is None:
            from pytest_rssguard.self_census import SelfCensus

            self._census = SelfCensus(self.probe)

    def warm_up(self) -> None:
        """Walk every path of a passing measurement, once: what first use costs then falls on no test."""
        if not self._warm:
            self.rehearse(lambda plan: self.end(self.begin(Limit(tolerance=1 << 40), plan)))

    def rehearse(self, measure: Callable[[Plan], object]) -> None:
        """Let `measure` take three measurements of nothing but our own code.

        Collections then need not look at the program's objects: they are set aside, where nobody notices.
        """
        self._warm = True
        self.make_ready()
        self._rehearsing = self._may_set_aside()
        try:
            with set_aside() if self._rehearsing else nullcontext():
                for trim in (True, False, False):
                    measure(Plan(trim=trim, several=True))
        finally:
            self._rehearsing = False

    def _may_set_aside(self) -> bool:
        """Whether nobody notices what `set_aside` does: no other thread runs, and the program has frozen nothing itself."""
        return not gc.get_freeze_count() and self.probe.is_alone()

    def begin(self, limit: Limit, plan: Plan = _PLAIN, *, bias: int = 0) -> Span:
        """Settle, trim, take the baseline.

        `bias`: bytes of Python objects that the caller itself holds more of at the end than at the beginning.

        Raises RuntimeError while another thread measures.
        """
        self.warm_up()
        if self._open and self._open[-1].thread != threading.get_ident():
            raise RuntimeError("rssguard: another thread is measuring; measurements of two threads cannot overlap")
        if self._census is None:
            return self._begin_blind(limit, plan, self.blind)
        if not plan.several and not self._census.ready:
            self._census.make_ready()
        probe = self.probe
        span = Span(limit, plan, slots=self._spare.pop() if self._spare else (probe.new_slot(), probe.new_slot()))
        assert span.before is not None
        assert span.after is not None
        span.bias = bias
        self._open.append(span)
        try:
            probe.prepare(span.before)
            probe.prepare(span.after)
            if len(sys.modules) < _MOST_MODULES:
                span.modules.extend(sys.modules)
            span.own_bytes = probe.own_bytes
            fine, quick = limit.tolerance < _FINE, plan.follows and self._may_set_aside()
            if plan.census:
                self._settle(span.before, thorough=not quick, alone=quick, trim=False)
                if not plan.follows:
                    self._census.take()  # for the pages that taking one touches: accounts rest on the next
                span.then = self._census.take().slim()
            span.before.finished = 0
            self._settle(span.before, thorough=not quick, alone=quick, fine=fine, trim=plan.purge)
            span.emptied, span.trimmed = self.trims.emptied, self.trims.total
            span.before.finished = time.perf_counter_ns()
            probe.read(span.before)
        except (OSError, UnreadableError) as error:
            self._close(span)
            return self._begin_blind(limit, plan, stopped(error))
        except BaseException:
            self._close(span)
            raise
        return span

    def _begin_blind(self, limit: Limit, plan: Plan, why: str) -> Span:
        span = Span(limit, plan, slots=None, why=why)
        collect_garbage()
        span.rss = portable_rss()
        self._open.append(span)
        return span

    def unmeasured(self, limit: Limit, error: OSError | UnreadableError, *, rss: int) -> Result:
        """Return the result of a measurement that began at `rss` bytes and that /proc did not let end."""
        span = Span(limit, _PLAIN, slots=None)
        span.rss = rss
        return blind_result(span, stopped(error))

    def cancel(self, span: Span) -> None:
        """Forget a measurement whose body failed on its own."""
        self._check(span)
        self._close(span)

    def _check(self, span: Span) -> None:
        if self._open and self._open[-1].thread != threading.get_ident():
            raise RuntimeError("rssguard: a measurement must end in the thread that began it")
        if not self._open or self._open[-1] is not span:
            raise RuntimeError("rssguard: measurements must end in the reverse order of their beginnings")

    def _close(self, span: Span) -> None:
        self._open.pop()
        if span.slots is not None:
            self._spare.append(span.slots)

    def end(self, span: Span) -> Result:
        """Settle, read, and say what the body did. Raises RuntimeError where measurements do not nest."""
        if span.after is not None:
            span.after.finished = time.perf_counter_ns()
        self._check(span)
        try:
            if span.before is None or span.after is None or self._census is None:
                return blind_result(span, span.why)
            self._read_end(span, span.before, span.after)
            return self._conclude(span, span.before, span.after, self._census)
        except (OSError, UnreadableError) as error:
            return self._broken_result(span, error)
        finally:
            self._close(span)  # not before the reading: a list that shrinks or grows is 32 bytes

    def pause(self, span: Span) -> Result | Held:
        """End one round of several. A round that moved little is only read: `resolve` or `drop` it when all are over."""
        if span.after is not None:
            span.after.finished = time.perf_counter_ns()
        self._check(span)
        held = None
        try:
            if span.before is None or span.after is None or self._census is None:
                return blind_result(span, span.why)
            self._read_end(span, span.before, span.after)
            old, new = self.probe.counters(span.before), counters(self.probe, span, span.after)
            if moved(old, new) > max(span.limit.tolerance, _COARSE):
                return self._conclude(span, span.before, span.after, self._census)
            if span.then is not None:
                span.now = self._census.take().slim()
            span.own_after = self.probe.own_bytes
            held = Held(span=span, growth=new.rss - old.rss, held=allocator_growth(old, new))
        except (OSError, UnreadableError) as error:
            return self._broken_result(span, error)
        else:
            return held
        finally:
            self._open.pop()
            if held is None and span.slots is not None:
                self._spare.append(span.slots)

    def resolve(self, held: Held) -> Result:
        """Decode what `pause` has read, and judge it on the counters. Once only."""
        span = held.span
        assert span.before is not None
        assert span.after is not None
        try:
            old, new = self.probe.decode(span.before), decoded(self.probe, span, span.after)
            return self._result(span, span.before, span.after, old, new, None)
        except UnreadableError as error:
            return self._broken_result(span, error)
        finally:
            self.drop(held)

    def drop(self, held: Held) -> None:
        """Give back what `pause` has kept."""
        if held.span.slots is not None:
            self._spare.append(held.span.slots)

    def _read_end(self, span: Span, before: Slot, after: Slot) -> None:
        # hot: allocates nothing that outlives the call
        probe, tolerance = self.probe, span.limit.tolerance
        thorough = tolerance < _FINE
        after.rss_at_once = probe.rss()
        self._settle(after, thorough=thorough, fine=thorough, trim=span.plan.trim, alone=before.threads == 1)
        probe.read(after)
        if not thorough and suspicious(probe, span):
            self._settle_again(span, after)
        if span.plan.within:
            self._wait(span, after)

    def _conclude(self, span: Span, before: Slot, after: Slot, census: SelfCensus) -> Result:
        probe, tolerance = self.probe, span.limit.tolerance
        old, new = probe.counters(before), counters(probe, span, after)
        taken: Census | None = None
        told = probe.pools.active or probe.pools.objects_in_malloc
        if told and (span.then is not None or moves(probe, span, old, new)):
            taken = census.take(draw=self.draws, ends=probe.heap_ends(before))
        if taken is not None or new.rss != old.rss or unlike(old, new) > min(_FINE, tolerance):
            old, new = probe.decode(before), decoded(probe, span, after)
            if told and taken is None and self._needs_census(span, old, new):
                taken = census.take(draw=self.draws)
        return self._result(span, before, after, old, new, taken)

    def _needs_census(self, span: Span, old: Snapshot, new: Snapshot) -> bool:
        """Whether a mapping has grown while as much other memory went back, or more than our trims' holes was filled."""
        if ledger.held(ledger.by_counters(old, new)) > span.limit.tolerance:
            return True
        return (
            moved(old, new) > span.limit.tolerance and conclude(_readings(span, old, new), span.limit, self.knowledge()).fails
        )

    def _wait(self, span: Span, after: Slot) -> None:
        """Settle and read again until what is over the tolerance has gone, or the time is over; the pauses double."""
        deadline = time.monotonic() + span.plan.within
        pause = _FIRST_PAUSE
        while waits(self.probe, span) and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._settle_again(span, after, fine=span.limit.tolerance < _FINE)

    def _settle_again(self, span: Span, after: Slot, *, fine: bool = False) -> None:
        """Settle thoroughly and read again. What an earlier trim gave back is not what a collection gave back."""
        trimmed = after.rss_collected - self.probe.judged_rss(after) if span.plan.trim else 0
        self._settle(after, thorough=True, fine=fine, trim=span.plan.trim)
        after.rss_collected += max(0, trimmed)
        self.probe.read(after)

    def _settle(self, slot: Slot, *, thorough: bool, trim: bool, alone: bool = False, fine: bool = False) -> None:
        drop_last_exception()
        if fine:
            clear_type_cache()
        if thorough or self._rehearsing:  # a young collection would leave free lists as they are: they read as live
            collect_garbage()
        else:
            collect_young(alone=alone)
        slot.rss_collected = self.probe.rss()
        if trim and self.probe.malloc.active:
            self.trims.trim()

    def knowledge(self) -> Knowledge:
        """Return what the allocators of this process can tell."""
        malloc, pools = self.probe.malloc, self.probe.pools
        blind = malloc.why_not if not malloc.active else ""
        if not pools.active and not pools.objects_in_malloc:
            blind = blind or pools.why_not
        return Knowledge(
            blind=blind, python_in_malloc=pools.objects_in_malloc, python_in_mimalloc=pools.objects_in_mimalloc
        )  # fmt: skip

    def _result(self, span: Span, first: Slot, slot: Slot, old: Snapshot, new: Snapshot, taken: Census | None) -> Result:
        readings = _readings(span, old, new, taken)
        found = conclude(readings, span.limit, self.knowledge())
        if new.mappings:
            self.trims.bound(found.hole, total=span.trimmed)
        released = None
        at_once, collected = slot.rss_at_once - new.own, slot.rss_at_once - slot.rss_collected
        seconds = (slot.finished - first.finished) / 1e9
        if span.plan.release and not span.plan.trim and found.verdict.outcome is Outcome.RETAINED and taken and taken.closes:
            released = self._release(taken, self._heaps(new, taken), slot)
        return Result(
            verdict=found.verdict, evidence=found.evidence, limit=span.limit, trim=span.plan.trim,
            basis=Basis.CENSUS if readings.closes else Basis.COUNTERS, accounts=found.evidence.accounts,
            rss_untrimmed=old.rss + found.hole, rss_before=old.rss, rss_after=at_once, rss_settled=new.rss,
            collected=collected, allocated=found.evidence.allocated, census=taken, then=span.then, now=span.now,
            before=old, after=new,
            private_allocators=found.evidence.private_allocators, released=released,
            modules=tuple(set(sys.modules).difference(span.modules)) if span.modules else (),
            seconds=seconds,
        )  # fmt: skip

    def take_census(self, before: Slot) -> Census | None:
        """Return a census of now, beside the reading in `before`; None where this process cannot be measured."""
        self.make_ready()
        return self._census.take(draw=self.draws, ends=self.probe.heap_ends(before)) if self._census else None

    @staticmethod
    def _heaps(snapshot: Snapshot, taken: Census) -> int:
        spans = [heap.start & -HEAP_MAX for heap in taken.heaps if not heap.main]
        classes = classify(snapshot, heaps=spans)
        return classes.heap + classes.thread_heaps

    def _release(self, taken: Census, judged: int, slot: Slot) -> Released:
        """Call malloc_trim(0), after the verdict is fixed, and see whether it gives back what the census said.

        `judged`: what the heaps had resident at the judged reading, in bytes. Compared with that, and the heaps alone: what
        our own decoding has taken from malloc since is free again, and goes back as well. `slot` is read into.
        """
        self.trims.trim()
        self.probe.read(slot)
        observed = judged - self._heaps(self.probe.decode(slot), taken)
        return Released(predicted=sum(heap.trimmable for heap in taken.heaps), observed=max(0, observed))

    def _broken_result(self, span: Span, error: OSError | UnreadableError) -> Result:
        """Return the result of a measurement whose baseline was taken, and whose end cannot be read."""
        assert span.before is not None
        try:
            span.rss = self.probe.judged_rss(span.before)
        except UnreadableError:  # the baseline's own text was nonsense
            span.rss = span.before.rss_collected
        return blind_result(span, stopped(error))


def _readings(span: Span, old: Snapshot, new: Snapshot, taken: Census | None = None) -> Readings:
    # of a round that follows another, the census at the baseline counts blocks: none was taken before it, so its pages are
    # some 100 KiB off
    then = None if span.plan.follows else span.then
    return Readings(old=old, new=new, taken=taken, then=then, trimmed=span.plan.purge, emptied=span.emptied)
