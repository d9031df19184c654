"""The table of the terminal summary. Pure: records to lines, legible at 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_rssguard.model import Outcome
from pytest_rssguard.record import Record
from pytest_rssguard.reporters.order import counts, worst_first
from pytest_rssguard.units import format_change, format_size

_VERDICT: Final = 12
_LEAST_NAME: Final = 20
_LEAST_BESIDE_BASELINE: Final = 15
_WIDEST: Final = 80
#: So many rows of tests that returned are shown; with --rssguard-all there may be thousands.
_MOST_RETURNED: Final = 30
_TOP: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Which columns the table has, and how wide they are: with a baseline every column counts."""

    baseline: bool
    verdict: int = _VERDICT

    def row(self, verdict: str, sizes: Sequence[str], baseline: str, name: str) -> str:
        cells = [*sizes, *([baseline] if self.baseline else [])]
        return f"{verdict:<{self.verdict}} " + " ".join(f"{cell:>9}" for cell in cells) + f"  {name}"


def table(records: Sequence[Record], *, width: int, quiet: bool = False) -> Iterator[str]:
    """Yield the lines for `records`, worst first; `quiet`: only the last line, which counts outcomes."""
    if not records:
        yield "no test was measured: mark one with @pytest.mark.rss_returns"
        return
    if not quiet:
        columns = _Columns(baseline=False)
        if any(record.regression for record in records):
            columns = _Columns(baseline=True, verdict=max(len("verdict"), *(len(_verdict(record)) for record in records)))
        head = columns.row("verdict", ("held", "retained", "growth", "tolerance"), "baseline", "test")
        yield head
        least = _LEAST_BESIDE_BASELINE if columns.baseline else _LEAST_NAME
        room = max(width - head.index("test") - 1, least)
        ordered = worst_first(records)
        first = next((at for at, record in enumerate(ordered) if record.outcome is Outcome.RETURNED), len(ordered))
        for record in ordered[: first + _MOST_RETURNED]:
            yield _row(columns, record, room)
        if (left := len(ordered) - first - _MOST_RETURNED) > 0:
            yield f"… and {left:,} more that returned, with less growth: --rssguard-json has all"
        yield from _legend(records)
        yield from _top_growth(records, width)
    yield _count(records)


def _verdict(record: Record) -> str:
    marks = ("*" if record.masked else "") + ("!" if record.regression else "")
    return record.outcome.value[: _VERDICT - len(marks)] + marks


def _row(columns: _Columns, record: Record, room: int) -> str:
    name = _shortened(record.nodeid, room)
    sizes = ["-", "-", "-"]
    if record.outcome is not Outcome.NOT_JUDGED:
        sizes = [_cell(format_change(size)) for size in (record.held, record.retained, record.growth)]
    tolerance = _cell(format_size(record.tolerance)) if record.judged else "-"
    baseline = _cell(format_size(record.regression.get("baseline", 0))) if record.regression else "-"
    return columns.row(_verdict(record), [*sizes, tolerance], baseline, name)


def _top_growth(records: Sequence[Record], width: int) -> Iterator[str]:
    """Yield the ten tests after which the process stayed biggest, where there are many: who fills a worker's memory."""
    top = sorted((record for record in records if record.growth > 0), key=lambda each: -each.growth)[:_TOP]
    if len(records) <= _TOP or not top:
        return
    yield "top growth: the process stayed so much bigger after"
    room = max(width - 13, _LEAST_NAME)
    for record in top:
        yield f"  {_cell(format_change(record.growth)):>8}  {_shortened(record.nodeid, room)}"


def _shortened(name: str, room: int) -> str:
    return name if len(name) <= room else "…" + name[-(room - 1) :]


def _legend(records: Sequence[Record]) -> Iterator[str]:
    """Yield what the marks mean, where there are any."""
    if any(record.masked for record in records):
        yield "* hidden: RSS itself stayed within the tolerance"
    if any(record.regression for record in records):
        yield "! over the limit of the baseline"
    if any(not record.judged and record.outcome is not Outcome.NOT_JUDGED for record in records):
        yield "tolerance -: measured, not judged"


def _count(records: Sequence[Record]) -> str:
    """Return the line that counts, as short as 80 columns need; it says how many of each outcome in any case."""
    found, prefix = list(counts(records)), f"{len(records)} measured: "
    lines = (prefix + ", ".join(found), prefix + ",".join(found), ", ".join(found), ",".join(found))
    return next((line for line in lines if len(line) <= _WIDEST), lines[-1])


def _cell(text: str) -> str:
    """Return a size that fits 9 columns: "+4.00MiB", "+0.992MiB"."""
    return text.replace(" ", "")
