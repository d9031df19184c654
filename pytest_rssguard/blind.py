"""The results of measurements that could not be made: never a pass, and RSS as well as it can be told."""

from __future__ import annotations

from pytest_rssguard import ledger
from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.interpreter import collect_garbage
from pytest_rssguard.model import Basis, Outcome, Verdict
from pytest_rssguard.result import Result
from pytest_rssguard.span import Span


def blind_result(span: Span, why: str) -> Result:
    """Return `unmeasurable`, because of `why`."""
    collect_garbage()
    rss = portable_rss()
    accounts = ledger.booked(rss - span.rss, {})
    return Result(
        verdict=Verdict(outcome=Outcome.UNMEASURABLE, why=why), limit=span.limit, trim=span.plan.trim,
        basis=Basis.COUNTERS, accounts=accounts, rss_untrimmed=span.rss, rss_before=span.rss, rss_after=rss,
        rss_settled=rss, collected=0, allocated=None,
    )  # fmt: skip


def portable_rss() -> int:
    """Return RSS as psutil tells it, in bytes, for the record only: 0 where even that cannot be read."""
    import psutil

    try:
        return int(psutil.Process().memory_info().rss)
    except (psutil.Error, OSError):
        return 0


def stopped(error: OSError | UnreadableError) -> str:
    """Return why a measurement could not go on."""
    return f"/proc stopped answering: {error}"
