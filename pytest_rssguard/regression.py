"""Put a regression into words. Pure; yields lines of at most 78 columns, prints nothing."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from pytest_rssguard.baseline import Entry
from pytest_rssguard.explain import ledger_lines, places
from pytest_rssguard.gate import FLOOR, PERCENT, Excess, Metric
from pytest_rssguard.hints import hints
from pytest_rssguard.result import Result
from pytest_rssguard.units import format_size

_WIDTH = 78


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a second run of the body said.

    `result`: what the second run found, None where there was none. `rounds`: how often the body ran in rounds that all
    count already. `impossible`: why it cannot run again. `trouble`: what it raised when it did.
    """

    result: Result | None = None
    rounds: int = 1
    impossible: str = ""
    trouble: str = ""

    def found(self, metric: Metric) -> int | None:
        """Return what the second run held or retained."""
        return None if self.result is None else int(getattr(self.result, metric))

    def confirms(self, excess: Excess) -> bool:
        """Whether `excess` stands: over the limit again, or no second run could be had."""
        found = self.found(excess.metric)
        return found is None or found > excess.limit


def name_excess(excess: Excess) -> str:
    """Return the first line without the exception's name: at most 72 characters with it."""
    return (
        f"{format_size(excess.found)} {excess.metric}, baseline {format_size(excess.baseline)} "
        f"(limit {format_size(excess.limit)})"
    )


def explain_regression(
    excesses: Sequence[Excess], result: Result, *, confirmation: Confirmation, entry: Entry, today: date, nodeid: str,
    folder: str, file: str, marked: bool = True, reason: str | None = None,
) -> str:  # fmt: skip
    """Return the whole failure text without the exception's name.

    `folder`, `file`: as --rssguard-baseline has them. `marked`: whether the test is measured without --rssguard-all.
    """
    first, *others = excesses
    lines = [name_excess(first), ""]
    if reason:
        lines += _wrap("reason    ", reason)
    lines += _wrap("meaning   ", _meaning(first, result))
    lines.append("")
    lines += _wrap("limit     ", f"{_limit(first)}; passed by {format_size(first.found - first.limit)}")
    lines += _wrap("confirmed ", _confirmed(first, confirmation))
    for other in others:
        lines += _wrap("also      ", f"{name_excess(other)}, passed by {format_size(other.found - other.limit)}")
    lines.append(
        f"RSS       {format_size(result.rss_before)} before, {format_size(result.rss_after)} after the body, "
        f"{format_size(result.rss_settled)} settled"
    )
    lines += ledger_lines(result)
    lines += places(result)
    for hint in hints(result):
        lines += _wrap("hint      ", hint)
    if entry.note:
        lines += _wrap("note      ", entry.note)
    if entry.expires is not None and entry.expires < today:
        lines += _wrap("waiver    ", f"ended on {entry.expires.isoformat()}: a new day in expires, or a fix, is due")
    lines += _wrap("baseline  ", file)
    lines += _wrap("fix       ", _fix(first))
    command = f"pytest {shlex.quote(nodeid)} --rssguard-baseline={shlex.quote(folder)}"
    if not marked:
        command += " --rssguard-all"
    lines += [f"accept    {command} --rssguard-update=all", f"re-run    {command}"]
    return "\n".join(lines)


def _meaning(first: Excess, result: Result) -> str:
    what = "holds more memory after" if first.metric is Metric.HELD else "has more freed memory resident after"
    return (
        f"REGRESSION: the process {what} this test than its committed baseline allows. The test's own tolerance "
        f"({format_size(result.limit.tolerance)}) is a limit apart from that, and did not fail it."
    )


def _limit(excess: Excess) -> str:
    size, base = format_size(excess.limit), format_size(excess.baseline)
    if excess.limit == excess.baseline + FLOOR:
        return f"{size} = the baseline of {base} and {format_size(FLOOR)} more"
    if excess.limit == excess.baseline * (100 + PERCENT) // 100:
        return f"{size} = the baseline of {base} and {PERCENT} % more"
    return f"{size} = the median of its {excess.samples} samples and 4 x 1.4826 x their median deviation"


def _confirmed(excess: Excess, confirmation: Confirmation) -> str:
    again = confirmation.found(excess.metric)
    if again is not None:
        return f"yes: the body ran once more and {excess.metric} {format_size(again)}"
    if confirmation.rounds > 1:
        return f"yes: each of the {confirmation.rounds} rounds was over the limit; the least counts"
    return f"could not be tried: {confirmation.impossible}"


def _fix(first: Excess) -> str:
    if first.metric is Metric.HELD:
        return "compare with the last commit that passed; `where` and the accounts narrow it down"
    return 'none needed for correctness; retained="warn" on the marker makes it a warning'


def explain_unfailed(excesses: Sequence[Excess], *, why: str) -> str:
    """Return the text of a warning about what is over its limit and does not fail: the sizes, and why."""
    return f"{name_excess(excesses[0])}: {why}"


def _wrap(label: str, words: str) -> Iterator[str]:
    indent = " " * len(label)
    yield from textwrap.wrap(
        words, _WIDTH, initial_indent=label, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
