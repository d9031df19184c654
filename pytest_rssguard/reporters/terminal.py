"""The table of the terminal summary. Pure: records to lines, legible at 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytest_rssguard.model import Outcome
from pytest_rssguard.record import Record
from pytest_rssguard.units import format_change, format_size

_ORDER: Final = (
    Outcome.LEAKED, Outcome.RETAINED, Outcome.GREW, Outcome.UNMEASURABLE, Outcome.NOT_JUDGED, Outcome.RETURNED,
)  # fmt: skip
_LEAST_NAME: Final = 20


def table(records: Sequence[Record], *, width: int, quiet: bool = False) -> Iterator[str]:
    """Yield the lines for `records`, worst first; `quiet`: only the last line, which counts outcomes."""
    if not records:
        yield "no test was measured: mark one with @pytest.mark.rss_returns"
        return
    if not quiet:
        head = f"{'verdict':<12} {'held':>9} {'retained':>9} {'growth':>9} {'tolerance':>9}  test"
        yield head
        room = max(width - head.index("test") - 1, _LEAST_NAME)
        for record in sorted(records, key=lambda each: (_ORDER.index(each.outcome), -each.growth)):
            yield _row(record, room)
    counts = {outcome: sum(record.outcome is outcome for record in records) for outcome in _ORDER}
    found = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    yield f"{len(records)} measured: {found}"


def _row(record: Record, room: int) -> str:
    verdict = "leaked*" if record.masked else record.outcome.value
    name = record.nodeid if len(record.nodeid) <= room else "…" + record.nodeid[-(room - 1) :]
    if record.outcome is Outcome.NOT_JUDGED:
        sizes = ["-", "-", "-", _cell(format_size(record.tolerance))]
    else:
        sizes = [
            _cell(format_change(record.held)), _cell(format_change(record.retained)), _cell(format_change(record.growth)),
            _cell(format_size(record.tolerance)),
        ]  # fmt: skip
    return f"{verdict:<12} " + " ".join(f"{size:>9}" for size in sizes) + f"  {name}"


def _cell(text: str) -> str:
    """Return a size that fits 9 columns: "+4.00MiB"."""
    return text.replace(" ", "")
