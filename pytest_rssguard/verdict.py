"""From evidence and a limit to an outcome. Pure: the rules of docs/design.md, "Outcomes", in their order."""

from __future__ import annotations

from pytest_rssguard.ledger import held, retained
from pytest_rssguard.model import Account, Evidence, Limit, Outcome, Verdict


def judge(evidence: Evidence, limit: Limit, *, leaks: bool = True) -> Verdict:  # noqa: PLR0911 - one return a rule
    """Return what `evidence` means against `limit`. Monotone: a larger tolerance never turns a pass into a failure.

    `leaks`: whether it may be a leak; not where another round of the same body held nothing.
    """
    tolerance = limit.tolerance
    holds = held(evidence.accounts)
    mapped = max(0, evidence.accounts[Account.MAPPED] or 0)
    over = evidence.growth > tolerance and evidence.growth_untrimmed > tolerance
    if leaks and evidence.allocated is not None and holds > tolerance and evidence.allocated > tolerance:
        decided_by_mapped = holds - mapped <= tolerance or evidence.allocated - evidence.allocated_mapped <= tolerance
        if evidence.private_allocators and decided_by_mapped:
            return Verdict(outcome=Outcome.UNMEASURABLE, why="private allocator")
        if holds - evidence.held_slack > tolerance:
            return Verdict(outcome=Outcome.LEAKED, masked=evidence.growth <= tolerance)
        return Verdict(outcome=Outcome.UNMEASURABLE, why=evidence.slack_why or "the heap could not be walked")
    if evidence.blind:
        return Verdict(outcome=Outcome.UNMEASURABLE, why=evidence.blind)
    kept = retained(evidence.accounts)
    if limit.budget is not None:
        if kept > limit.budget:
            return Verdict(outcome=Outcome.RETAINED, over_budget=True)
        if over and evidence.growth - max(kept, 0) > tolerance:
            return _grew(evidence, tolerance, holds)
        return Verdict(outcome=Outcome.RETURNED)
    if over and kept >= evidence.growth - tolerance:
        return Verdict(outcome=Outcome.RETAINED)
    if over:
        return _grew(evidence, tolerance, holds)
    return Verdict(outcome=Outcome.RETURNED)


def _grew(evidence: Evidence, tolerance: int, holds: int) -> Verdict:
    """Return "grew" with what explains it best: first writes, mapped files, or nothing known."""
    accounts = evidence.accounts
    mapped = accounts[Account.MAPPED] or 0
    if evidence.private_allocators and evidence.growth - mapped <= tolerance:
        return Verdict(outcome=Outcome.UNMEASURABLE, why="private allocator")
    if holds > tolerance:
        return Verdict(outcome=Outcome.GREW, why="first written here")
    file, unexplained = accounts[Account.FILE] or 0, accounts[Account.UNEXPLAINED] or 0
    return Verdict(outcome=Outcome.GREW, why="mapped files" if file >= unexplained else "unexplained")
