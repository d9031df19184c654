"""How far the two readings of a measurement lie apart: what decides whether to look closer. Reads no memory itself."""

from __future__ import annotations

from dataclasses import replace

from pytest_rssguard import ledger
from pytest_rssguard.growth import address_space_growth, allocator_growth
from pytest_rssguard.model import Snapshot
from pytest_rssguard.probe import LinuxProbe
from pytest_rssguard.slot import Slot
from pytest_rssguard.span import Span


def moved(old: Snapshot, new: Snapshot) -> int:
    """Return by how much RSS or the allocators' live counters have grown, whichever is more, in bytes."""
    return max(new.rss - old.rss, allocator_growth(old, new))


def unlike(old: Snapshot, new: Snapshot) -> int:
    """Return by how much RSS, live counters or address space have grown, whichever is most, in bytes."""
    return max(moved(old, new), address_space_growth(old, new))


def counters(probe: LinuxProbe, span: Span, slot: Slot) -> Snapshot:
    """Decode the counters, without what is our own: buffers that grew since the baseline, and the bias."""
    own = (probe.own_bytes if span.own_after is None else span.own_after) - span.own_bytes
    snapshot = probe.counters(slot)
    if own:
        snapshot = replace(snapshot, rss=snapshot.rss - own, own=own)
    if span.bias and snapshot.pools:
        pools = replace(snapshot.pools, allocated=snapshot.pools.allocated - span.bias)
        snapshot = replace(snapshot, pools=pools)
    return snapshot


def decoded(probe: LinuxProbe, span: Span, slot: Slot) -> Snapshot:
    """Decode all of `slot`, without what is our own. Only after the last reading."""
    cheap = counters(probe, span, slot)
    return replace(probe.decode(slot), own=cheap.own, rss=cheap.rss, pools=cheap.pools)


def moves(probe: LinuxProbe, span: Span, old: Snapshot, new: Snapshot) -> bool:
    """Whether RSS or live memory has grown by more than the tolerance.

    Not if nothing is held, and RSS has grown because the main heap fills again what trims of ours have emptied: that
    has returned, whatever a census says, which takes longer than many a body that does it again and again.
    """
    tolerance, budget = span.limit.tolerance, span.limit.budget
    if moved(old, new) <= tolerance:
        return False
    if budget is not None or not span.emptied or old.malloc is None or allocator_growth(old, new) > tolerance:
        return True
    before, after = span.pair
    (size, then), (_, now) = probe.heap(before), probe.heap(after)
    refilled = min(span.emptied, size + old.malloc.cut - then, now - then)
    return new.rss - old.rss - refilled > tolerance


def suspicious(probe: LinuxProbe, span: Span) -> bool:
    """Whether RSS, a live counter or the address space outside the heaps has grown by more than the tolerance.

    A function of its own so that the decoded values are gone before the next reading.
    """
    before, after = span.pair
    old, new = probe.counters(before), counters(probe, span, after)
    return moves(probe, span, old, new) or address_space_growth(old, new) > span.limit.tolerance


def waits(probe: LinuxProbe, span: Span) -> bool:
    """Whether there is still something to wait for: address space alone, never touched, is nothing."""
    before, after = span.pair
    if moves(probe, span, probe.counters(before), counters(probe, span, after)):
        return True
    if not suspicious(probe, span):
        return False
    old, new = probe.decode(before), decoded(probe, span, after)
    return ledger.held(ledger.by_counters(old, new)) > span.limit.tolerance
