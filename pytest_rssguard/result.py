"""All that one measurement found, before it is put into words or written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_rssguard import ledger
from pytest_rssguard.model import Account, Basis, Census, Evidence, Limit, Snapshot, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What malloc_trim(0) gave back after the verdict, beside what the census had predicted, in bytes."""

    predicted: int
    observed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of a body that ran several times, in bytes. `blocks`: live blocks more, None where nobody counted."""

    growth: int
    held: int
    retained: int
    allocated: int | None = None
    blocks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that one measurement found. Sizes in bytes."""

    verdict: Verdict
    limit: Limit
    trim: bool
    basis: Basis
    accounts: Mapping[Account, int | None]
    rss_untrimmed: int
    rss_before: int
    rss_after: int
    rss_settled: int
    collected: int
    allocated: int | None
    census: Census | None = None
    #: The census at the baseline, where one was asked for.
    then: Census | None = None
    #: The census after the last of several rounds, where it only counts blocks.
    now: Census | None = None
    before: Snapshot | None = None
    after: Snapshot | None = None
    private_allocators: tuple[str, ...] = ()
    released: Released | None = None
    modules: tuple[str, ...] = ()
    #: Log records that pytest keeps of the body until teardown, with their arguments.
    log_records: int = 0
    #: What the verdict was made from; None where nothing could be measured.
    evidence: Evidence | None = None
    #: All rounds of the same body, this one (the number `decided`, from 1) among them; empty for a single run.
    rounds: tuple[Round, ...] = ()
    decided: int = 1
    #: Other processes that were measured, not this one: (pid and command, RSS growth in bytes).
    processes: tuple[tuple[str, int], ...] = ()
    seconds: float = 0.0

    @property
    def growth(self) -> int:
        """RSS growth."""
        return self.rss_settled - self.rss_before

    @property
    def held(self) -> int:
        """Growth that the program still holds, as far as it is known."""
        return ledger.held(self.accounts)

    @property
    def retained(self) -> int:
        """Growth that was freed and stayed resident, as far as it is known."""
        return ledger.retained(self.accounts)
