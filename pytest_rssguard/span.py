"""One measurement under way: how it is taken, and where it stands."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from pytest_rssguard.model import Census, Limit
from pytest_rssguard.slot import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one measurement is taken.

    `trim`: purge the allocators before the judged reading too. `census`: take one at the baseline as well, for accounts
    that are exact at both ends. `within`: seconds in which what is still there may go. `purge`: trim before the baseline;
    `release`: trim after a verdict "retained", to see what comes back (a later round of the same test must not find the
    heap trimmed in between). `several`: one of several rounds. `follows`: the round before has just ended, and none
    but the guard's code has run since.
    """

    trim: bool = False
    census: bool = False
    within: float = 0.0
    purge: bool = True
    release: bool = True
    several: bool = False
    follows: bool = False


class Span:
    """One measurement under way: its two slots, its limit, and what was true when it began."""

    __slots__ = (
        "after",
        "before",
        "bias",
        "emptied",
        "limit",
        "modules",
        "now",
        "own_after",
        "own_bytes",
        "plan",
        "rss",
        "slots",
        "then",
        "thread",
        "trimmed",
        "why",
    )

    def __init__(self, limit: Limit, plan: Plan, *, slots: tuple[Slot, Slot] | None, why: str = "") -> None:
        self.limit, self.plan = limit, plan
        self.slots = slots  # kept whole: a new pair after the baseline would be a live block more
        self.before: Slot | None = slots[0] if slots else None
        self.after: Slot | None = slots[1] if slots else None
        self.modules: list[str] = []
        self.then: Census | None = None
        self.now: Census | None = None
        self.own_after: int | None = None
        self.why = ""  # why this one cannot be measured
        self.own_bytes = self.rss = self.bias = 0
        self.emptied = self.trimmed = 0  # by our trims, at the baseline: still empty at most, and ever (Trims)
        self.thread = threading.get_ident()
        self.why = why  # nothing can be said of it, or ""

    @property
    def pair(self) -> tuple[Slot, Slot]:
        """The slots of both ends."""
        assert self.slots is not None
        return self.slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One round that was read and not yet decoded, by its counters: RSS growth and live memory, in bytes."""

    span: Span
    growth: int
    held: int
