"""What may explain a result beyond its accounts. Pure: facts in, sentences out, the decisive one first.

A hint is given only where its fact holds in this very measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pytest_rssguard.model import Account, Outcome
from pytest_rssguard.result import Result
from pytest_rssguard.units import format_change, format_size

#: A first import of fewer modules costs less than the default tolerance.
_MANY_MODULES: Final = 5
#: free() returns the top of the main heap by itself beyond M_TRIM_THRESHOLD, 128 KiB unless something raised it.
_THRESHOLD: Final = 1 << 20


def hints(result: Result) -> Iterator[str]:
    """Yield the hints that apply to `result`."""
    if result.verdict.outcome is Outcome.RETURNED:
        return
    yield from _imports(result)
    if result.log_records and result.held > result.limit.tolerance // 4:
        many = f"{result.log_records:,} log records" if result.log_records > 1 else "a log record"
        yield f"pytest keeps {many} of the body until teardown, with all their arguments; -p no:logging shows what is left"
    if result.before is None or result.after is None:
        return
    threads = result.after.threads - result.before.threads
    if threads > 0:
        still = "1 thread that the body started is still running: its stack and cache"
        if threads > 1:
            still = f"{threads} threads that the body started are still running: their stacks and caches"
        yield f"{still} are in use"
    huge = sum(region.huge for region in result.after.mappings) - sum(region.huge for region in result.before.mappings)
    if huge > result.limit.tolerance // 4:
        yield f"transparent huge pages grew by {format_change(huge)}: one touched byte makes 2 MiB resident"
    top = sum(heap.top_trimmable for heap in result.census.heaps) if result.census else 0
    if top > _THRESHOLD and result.verdict.outcome is Outcome.RETAINED:
        yield (
            f"{format_size(top)} lie at the end of the heap, where free() returns memory by itself beyond 128 KiB, unless "
            "the threshold was raised: freeing one block of up to 32 MiB raises it to twice that block's size, in this "
            "test or an earlier one; MALLOC_TRIM_THRESHOLD_=131072 in the environment keeps it"
        )
    if (result.accounts[Account.ARENA_TOP] or 0) > result.limit.tolerance // 4:
        yield "memory freed in threads stays at the end of each thread's own heap until that thread frees again"
    unexplained = result.accounts[Account.UNEXPLAINED] or 0
    known = result.verdict.outcome is not Outcome.UNMEASURABLE  # else there is no account for it to be on
    if known and abs(unexplained) > max(result.limit.tolerance, abs(result.growth) // 10):
        yield f"{format_change(unexplained)} are unexplained: please report this case"


def _imports(result: Result) -> Iterator[str]:
    packages = sorted({name.partition(".")[0] for name in result.modules})
    packages = [name for name in packages if not name.startswith("_")] or packages
    if len(result.modules) >= _MANY_MODULES:
        names = ", ".join(packages[:3]) + (f" and {len(packages) - 3} more" if len(packages) > 3 else "")
        yield (
            f"the body imported {names} for the first time in this process ({len(result.modules)} modules): import it "
            "before the body to tell first-use cost from a leak"
        )
