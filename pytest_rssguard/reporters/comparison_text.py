"""What `pytest-rssguard compare` prints: a table for terminals, or Markdown for a job summary or a comment. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytest_rssguard.comparison import Kind, Row
from pytest_rssguard.gate import Metric, Sizes
from pytest_rssguard.units import format_size

#: Rows of one table; the rest is counted. Step summaries and comments have limits of their own.
_MOST_ROWS: Final = 200
_SHOWN: Final = (Kind.REGRESSED, Kind.UNKNOWN, Kind.IMPROVED)


def count_kinds(rows: Sequence[Row]) -> str:
    """Return the result in one line: "1 regressed, 2 improved, 40 same"."""
    counts = {kind: sum(row.kind is kind for row in rows) for kind in Kind}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing measured in either run"


def comparison_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of the tests that differ, and the counts."""
    shown = [row for row in rows if row.kind in _SHOWN]
    if shown:
        yield f"{'':<9} {'held, base > head':>21} {'retained, base > head':>21} {'limit':>8}  test"
    for row in shown[:_MOST_ROWS]:
        held, retained = _step(row, Metric.HELD), _step(row, Metric.RETAINED)
        limit = _size(row.excesses[0].limit) if row.excesses else "-"
        yield f"{row.kind:<9} {held:>21} {retained:>21} {limit:>8}  {row.nodeid}"
    if len(shown) > _MOST_ROWS:
        yield f"and {len(shown) - _MOST_ROWS} more"
    yield f"{len(rows)} compared: {count_kinds(rows)}"


def render_comparison_md(rows: Sequence[Row], *, base: str, head: str) -> str:
    """Return the comparison as Markdown; its first line is hidden, and lets a bot find its own comment again."""
    shown = [row for row in rows if row.kind in _SHOWN]
    failed = any(row.kind is Kind.REGRESSED for row in rows)
    lines = ["<!-- pytest-rssguard-compare -->", f"**Memory {'regressed' if failed else 'held'}**: {count_kinds(rows)}", ""]
    if shown:
        lines += [
            f"| | test | held, {_cell(base)} → {_cell(head)} | retained | limit |",
            "|---|---|---:|---:|---:|",
        ]
    for row in shown[:_MOST_ROWS]:
        held, retained = _step(row, Metric.HELD), _step(row, Metric.RETAINED)
        limit = f"{row.excesses[0].metric} {_size(row.excesses[0].limit)}" if row.excesses else ""
        kind = f"**{row.kind}**" if row.kind is Kind.REGRESSED else row.kind
        lines.append(f"| {kind} | {_cell(row.nodeid)} | {held} | {retained} | {limit} |")
    if len(shown) > _MOST_ROWS:
        lines.append(f"\n{len(shown) - _MOST_ROWS} more.")
    return "\n".join(lines).rstrip("\n") + "\n"


def _step(row: Row, metric: Metric) -> str:
    return f"{_of(row.base, metric)} > {_of(row.head, metric)}"


def _of(found: Sizes | None, metric: Metric) -> str:
    return "-" if found is None else _size(int(getattr(found, metric)))


def _size(size: int) -> str:
    return format_size(size).replace(" ", "")


def _cell(words: str) -> str:
    """Return `words` as code that neither ends a table's cell nor its line."""
    safe = " ".join(words.split()).replace("`", "'").replace("|", "\\|")
    return f"`{safe}`"
