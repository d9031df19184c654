"""Put a result into words. Pure; yields lines of at most 78 columns, prints nothing.

The text is the product: its first line stands alone (JUnit and the summary show only that), the ledger adds up, and
advice is given only where it applies here.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from typing import Final

from pytest_rssguard.hints import hints
from pytest_rssguard.model import HELD, RETAINED, Account, Basis, Census, Outcome
from pytest_rssguard.result import Result
from pytest_rssguard.units import format_change, format_size

_WIDTH: Final = 78
#: What each account holds, in at most 48 characters.
MEANING: Final = {
    Account.PYTHON_LIVE: "Python objects of 512 bytes or less",
    Account.MALLOC_LIVE: "malloc: C code, Python objects over 512 bytes",
    Account.MAPPED: "mapped by mmap, outside every heap",
    Account.STACK: "stacks of live threads",
    Account.SHMEM: "shared memory",
    Account.TRIMMABLE: "whole free pages: malloc_trim(0) returns them",
    Account.PINNED: "free, on pages that a live block keeps resident",
    Account.FREE_HEAP: "free in the heap, not divided further",
    Account.ARENA_TOP: "free end of a thread's heap: trim skips it",
    Account.POOL_FREE: "free inside Python's 1 MiB arenas",
    Account.TCACHE: "free blocks cached by threads",
    Account.LAZY_FREE: "given back lazily (MADV_FREE), still counted",
    Account.FILE: "pages of mapped files: libraries, data",
    Account.UNEXPLAINED: "no account covers this",
}
_NAMES: Final = {Outcome.LEAKED: "RssLeak", Outcome.RETAINED: "RssRetained"}


def exception_name(outcome: Outcome) -> str:
    """Return the name of the exception that `outcome` raises, or what to call it where it raises none."""
    return _NAMES.get(outcome, "RssNotReturned" if outcome is not Outcome.RETURNED else "returned")


def headline(result: Result) -> str:  # noqa: PLR0911 - one return an outcome
    """Return the first line without the exception's name: at most 72 characters with it."""
    tolerance = f"(tolerance {format_size(result.limit.tolerance)})"
    verdict = result.verdict
    if verdict.outcome is Outcome.LEAKED and verdict.masked:
        return f"{format_size(result.held)} leaked, hidden: RSS {format_change(result.growth)} {tolerance}"
    if verdict.outcome is Outcome.LEAKED:
        return f"{format_size(result.held)} leaked {tolerance}"
    if verdict.outcome is Outcome.RETAINED and verdict.over_budget:
        return f"{format_size(result.retained)} freed, not returned (budget {format_size(result.limit.budget or 0)})"
    if verdict.outcome is Outcome.RETAINED:
        return f"{format_size(result.retained)} freed, not returned {tolerance}, no leak"
    if verdict.outcome is Outcome.GREW:
        return f"RSS {format_change(result.growth)}, {verdict.why} {tolerance}"
    if verdict.outcome is Outcome.UNMEASURABLE:
        return f"RSS {format_change(result.growth)}, cannot be judged {tolerance}"
    return f"RSS {format_change(result.growth)} {tolerance}"


def explain(result: Result, *, nodeid: str = "", reason: str | None = None) -> Iterator[str]:
    """Yield the whole text below the headline."""
    if reason:
        yield from _wrap("reason    ", reason)
    meaning = _meaning(result)
    if result.processes:
        meaning = meaning.replace("the test body", "the process").replace("the body", "the process")
    yield from _wrap("meaning   ", meaning)
    yield ""
    yield from _readings(result)
    yield from ledger_lines(result)
    if result.rounds:
        yield from _wrap("rounds    ", tell_rounds(result))
    yield from _proof(result)
    yield from places(result)
    for hint in hints(result):
        yield from _wrap("hint      ", hint)
    if result.verdict.outcome is not Outcome.RETURNED:
        yield from _wrap("fix       ", _fix(result))
        if result.verdict.outcome is not Outcome.UNMEASURABLE:  # a larger tolerance would not make it known
            yield from _wrap("accept    ", _accept(result))
    if nodeid:
        yield f"re-run    pytest {shlex.quote(nodeid)} --rssguard-report"


def _readings(result: Result) -> Iterator[str]:
    """Yield RSS at each step; of other processes, who they are and what each grew by."""
    if result.processes:
        for name, growth in result.processes:
            yield from _wrap("process   ", f"{name}: {format_change(growth)}")
        yield f"RSS       {format_size(result.rss_before)} before, {format_size(result.rss_settled)} after"
        return
    yield (
        f"RSS       {format_size(result.rss_before)} before, {format_size(result.rss_after)} after the body, "
        f"{format_size(result.rss_settled)} settled"
    )
    if result.collected:
        yield f"          ({format_change(-result.collected)} by garbage collection)"


def ledger_lines(result: Result) -> Iterator[str]:
    """Yield the accounts, grouped; they sum to the growth, to the byte."""
    accounts = result.accounts
    yield f"growth    {format_change(result.growth):>11}  = the sum of the accounts below"
    groups = ((HELD, "held", "the program still has it"), (RETAINED, "retained", "the program freed it"))
    for members, name, meaning in groups:
        shown = [account for account in members if accounts[account]]
        total = sum(accounts[account] or 0 for account in members)
        yield f"  {name:<8}{format_change(total):>11}  {meaning}"
        for account in shown:
            yield f"    {account.value:<12}{format_change(accounts[account] or 0):>11}  {MEANING[account]}"
    for account in (Account.FILE, Account.UNEXPLAINED):
        if accounts[account] or account is Account.UNEXPLAINED:
            yield f"  {account.value:<12}{format_change(accounts[account] or 0):>9}  {MEANING[account]}"
    unknown = [account.value for account in Account if accounts[account] is None]
    if result.basis is Basis.COUNTERS and Account.FREE_HEAP.value not in unknown:
        unknown = [name for name in unknown if name not in {"trimmable", "pinned", "arena_top", "tcache"}]
    elif result.basis is Basis.CENSUS:
        unknown = [name for name in unknown if name != "free_heap"]
    if unknown:
        yield from _wrap("  unknown here (in unexplained): ", ", ".join(unknown))


def _meaning(result: Result) -> str:
    verdict = result.verdict
    if verdict.outcome is Outcome.LEAKED:
        text = "LEAKED: memory that the test body allocated is still in use after it ended."
        if verdict.masked:
            text += " RSS does not show it, because as much older memory was reused or given back meanwhile."
        return text
    if verdict.outcome is Outcome.RETAINED:
        return (
            "NOT A LEAK: the body freed this memory, but its pages are still resident: the allocator keeps them for later use."
        )
    if verdict.outcome is Outcome.GREW:
        return {
            "first written here": "The body wrote to memory that was allocated before it began (by a fixture?): "
            "it became resident here, but was not leaked here.",
            "mapped files": "The body touched mapped files: shared libraries that it loaded, or memory-mapped data.",
        }.get(verdict.why, "RSS grew, and neither live nor freed memory accounts for it.")
    if verdict.outcome is Outcome.UNMEASURABLE:
        if verdict.why == "private allocator":
            names = " and ".join(result.private_allocators)
            manage = "manages memory of its own" if len(result.private_allocators) == 1 else "manage memory of their own"
            mapped = format_size(result.accounts[Account.MAPPED] or 0)
            return (
                f"CANNOT TELL: {mapped} more are mapped, and {names} {manage}, where what is "
                "freed and what is leaked look the same. To tell it apart: ask that library for its live bytes (for "
                "pyarrow: pyarrow.total_allocated_bytes()), or use the system allocator for the test (for pyarrow: "
                "ARROW_DEFAULT_MEMORY_POOL=system)."
            )
        return f"CANNOT TELL: {verdict.why}. This is no pass."
    return "RSS came back to within the tolerance."


def _proof(result: Result) -> Iterator[str]:
    if result.verdict.outcome is Outcome.LEAKED and result.allocated is not None:
        yield from _wrap(
            "proof     ",
            f"the allocators' own counters and the sizes of mappings grew by {format_change(result.allocated)}",
        )
    if result.released is not None:
        predicted, observed = result.released.predicted, result.released.observed
        yield from _wrap(
            "proof     ",
            f"malloc_trim(0) was predicted to return {format_size(predicted)}; called after the verdict, it returned "
            f"{format_size(observed)}",
        )
    if result.census is not None and not result.census.closes:
        yield from _wrap("census    ", f"not used, it does not add up: {'; '.join(result.census.problems)}")


def places(result: Result) -> Iterator[str]:
    """Yield where the memory is: mappings that grew, objects by size, blocks that pin pages."""
    if result.before is None or result.after is None:
        return
    grown = list(_mappings(result))
    if grown:
        yield from _wrap("where     ", "; ".join(grown))
    if (result.accounts[Account.PYTHON_LIVE] or 0) > result.limit.tolerance // 4:
        change = {size: blocks - result.before.blocks.get(size, 0) for size, blocks in result.after.blocks.items()}
        top = sorted(change.items(), key=lambda item: item[0] * item[1], reverse=True)[:3]
        text = ", ".join(f"{blocks:,} of {size - 15} to {size} bytes" for size, blocks in top if blocks > 0)
        if text:
            yield from _wrap("objects   ", f"more live Python blocks: {text}")
    if result.before.malloc and result.after.malloc and result.after.malloc.hblks > result.before.malloc.hblks:
        blocks = result.after.malloc.hblks - result.before.malloc.hblks
        size = result.after.malloc.hblkhd - result.before.malloc.hblkhd
        yield from _wrap("blocks    ", f"{blocks:,} more large malloc blocks, {format_size(size)} together")
    if result.census is not None and (result.accounts[Account.PINNED] or 0) > 64 << 10:
        yield from _wrap("pinned by ", pinning(result.census))
    if result.census is not None and (result.accounts[Account.POOL_FREE] or 0) > 1 << 20 and result.census.pools:
        pools = result.census.pools
        yield from _wrap(
            "arenas    ",
            f"{pools.live_blocks:,} live Python blocks ({format_size(pools.live)}) lie scattered over {pools.arenas:,} "
            "arenas of 1 MiB; an arena goes back only when it is wholly free",
        )


def pinning(census: Census) -> str:
    """Return who pins: "20,000 live blocks of 24 bytes or less hold 76.3 MiB on 19,800 pages"."""
    sizes = census.pins
    if not sizes:
        return "no live block: what is left are pages that carry malloc's own headers"
    total = sum(sizes.values())
    pinned, pages = sum(heap.pinned for heap in census.heaps), sum(heap.pinned_pages for heap in census.heaps)
    top = sorted(sizes.items(), key=lambda item: item[1], reverse=True)[:3]
    if top[0][1] >= 0.9 * total:
        return f"{top[0][1]:,} live blocks of {block_size(top[0][0])} hold {format_size(pinned)} on {pages:,} pages"
    parts = ", ".join(f"{count:,} of {block_size(size)}" for size, count in top)
    return f"{total:,} live blocks hold {format_size(pinned)} on {pages:,} pages: {parts}"


def block_size(chunk: int) -> str:
    """Return the sizes that a program asks for to get a chunk of `chunk` bytes: its header takes 8 of them."""
    if chunk <= 32:
        return "24 bytes or less"
    if chunk <= 1040:
        return f"{chunk - 23} to {chunk - 8} bytes"
    return f"{chunk // 2 + 1:,} to {chunk:,} bytes"


def _mappings(result: Result) -> Iterator[str]:
    """Yield the three names whose mappings grew most, in resident bytes."""
    assert result.before is not None
    assert result.after is not None
    change: dict[str, int] = {}
    for sign, snapshot in ((-1, result.before), (1, result.after)):
        for region in snapshot.mappings:
            name = region.path.rsplit("/", 1)[-1] or "anonymous memory"
            change[name] = change.get(name, 0) + sign * region.rss
    top = sorted(change.items(), key=lambda item: item[1], reverse=True)[:3]
    for name, size in top:
        if size >= max(result.limit.tolerance // 8, 4096):
            yield f"{name} {format_change(size)}"


def _fix(result: Result) -> str:
    accounts, outcome = result.accounts, result.verdict.outcome
    if outcome is Outcome.LEAKED:
        biggest = max(HELD, key=lambda account: accounts[account] or 0)
        return {
            Account.PYTHON_LIVE: "find what still refers to the objects: a cache, a module-level list, a closure "
            "(gc.get_referrers, tracemalloc)",
            Account.MALLOC_LIVE: "find what still owns the blocks: a missing free in C, a large buffer kept by an object "
            "or a cache (memray or heaptrack name the lines)",
            Account.MAPPED: "find the mmap without munmap, or the object that keeps the mapping open",
            Account.STACK: "join or stop the threads that the body started",
            Account.SHMEM: "close and unlink the shared memory that the body made",
        }[biggest]
    if outcome is Outcome.RETAINED:
        biggest = max(RETAINED, key=lambda account: accounts[account] or 0)
        return {
            Account.PINNED: "allocate what lives long before or apart from what is freed (a pool, another order): no "
            "call can return a page that carries a live block",
            Account.ARENA_TOP: "use fewer threads or MALLOC_ARENA_MAX=1; malloc_trim does not return the end of a "
            "thread's heap",
            Account.POOL_FREE: "make what lives long before the peak, not during it: each survivor keeps an arena",
            Account.TCACHE: "let the threads end: their caches go with them",
            Account.LAZY_FREE: "none needed: the kernel takes these pages back when it wants memory",
        }.get(
            biggest,
            "none needed for correctness. A long-lived process can call malloc_trim(0) after the peak, or set "
            "MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_",
        )
    if outcome is Outcome.UNMEASURABLE:
        return "run the test where this can be measured, or set rssguard_unmeasurable to warn, fail or skip"
    return "load or touch it before the measured body (import at the top of the file, a warm-up call in a fixture)"


def _accept(result: Result) -> str:
    if result.verdict.outcome is Outcome.RETAINED:
        gone = sum(result.accounts[account] or 0 for account in (Account.TRIMMABLE, Account.FREE_HEAP))
        if result.growth - gone <= result.limit.tolerance and not result.verdict.over_budget and not result.processes:
            return 'trim=True forgives what malloc_trim returns; retained="warn" fails only for held memory'
        return 'retained="warn" fails only for held memory; retained="64MB" gives freed memory its own budget'
    enough = max(result.growth, result.held)
    megabytes = -(-enough * 5 // 4 >> 20)
    return f'tolerance="{megabytes}MB" on the marker, if this growth is intended'


def tell_rounds(result: Result) -> str:
    """Return what several rounds say together: "every one of 5 rounds leaked 2,064 B in 1 block"."""
    rounds, outcome = result.rounds, result.verdict.outcome
    decides = f"; round {result.decided} decides" if len({(each.growth, each.held) for each in rounds}) > 1 else ""
    if outcome is Outcome.LEAKED:
        sizes = [each.held for each in rounds]
        blocks = rounds[result.decided - 1].blocks
        if blocks is None:
            blocks = next((each.blocks for each in rounds if each.blocks is not None and each.held == min(sizes)), None)
        counted = f" in {blocks:,} block{'s' if blocks > 1 else ''}" if blocks and blocks > 0 else ""
        least, most = _exact(min(sizes)), _exact(max(sizes))
        if least == most:
            return f"every one of {len(rounds)} rounds leaked {least}{counted}"
        return f"every one of {len(rounds)} rounds leaked: {least}{counted} at least, {most} at most{decides}"
    growths = [each.growth for each in rounds]
    over = [number for number, growth in enumerate(growths, 1) if growth > result.limit.tolerance]
    if outcome is Outcome.RETURNED and over == [1]:
        return f"round 1 {format_change(growths[0])}, then {format_change(max(growths[1:]))}: first-use cost, not a leak"
    shown = ", ".join(format_change(growth) for growth in growths[:8]) + (", …" if len(growths) > 8 else "")
    return f"{len(rounds)} rounds grew by {shown}{decides}"


def _exact(size: int) -> str:
    return f"{size:,} B" if abs(size) < 100_000 else format_size(size)


def _wrap(label: str, text: str) -> Iterator[str]:
    indent = " " * min(len(label), 10)
    yield from textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=label,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
