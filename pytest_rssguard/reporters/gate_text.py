"""What the regression gate says in the terminal summary: one line of counts, notices, and what an update changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from pytest_rssguard.baseline import Entry
from pytest_rssguard.gate import Change, Metric, Mode, Standing
from pytest_rssguard.units import format_size

#: Names in one notice; the rest is counted.
_MOST_NAMES: Final = 10
#: Rows of the table of changes.
_MOST_ROWS: Final = 40
_COUNTED: Final = (
    Standing.REGRESSED, Standing.ACCEPTED, Standing.WARNED, Standing.CHANGED, Standing.UNCONFIRMED, Standing.ONCE,
    Standing.WAIVED, Standing.WITHIN,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRun:
    """What the gate saw and did in one run.

    `given`: the folder as the user named it; `file`: the baseline's path, shown; `exists`: whether it was there before.
    `standings`: the tests by how they stand. `entries`: what the baseline says of those. `partial`: why this run cannot tell
    which entries are stale, "" where it can. `changes`: what the update that `written` or `candidate` (paths, or "") got.
    `kept`: why nothing was written although it was asked for. `outside`: tests that no baseline may name.
    """

    key: str
    given: str
    file: str
    exists: bool
    standings: Mapping[Standing, Sequence[str]]
    today: date
    entries: Mapping[str, Entry] = field(default_factory=dict)
    stale: Sequence[str] = ()
    partial: str = ""
    mode: Mode | None = None
    changes: Sequence[Change] = ()
    written: str = ""
    candidate: str = ""
    kept: str = ""
    outside: Sequence[str] = ()
    nearest: tuple[str, Sequence[tuple[str, str]]] | None = None


def gate_lines(run: GateRun, *, quiet: bool = False) -> Iterator[str]:
    """Yield the lines of the summary; `quiet`: the counts, and what was written."""
    yield _counts(run)
    if not quiet:
        yield from _missing(run)
        yield from _notices(run)
    yield from _update(run, quiet=quiet)


def _counts(run: GateRun) -> str:
    counts = {standing: len(run.standings.get(standing, ())) for standing in (*_COUNTED, Standing.NEW)}
    compared = sum(counts[standing] for standing in _COUNTED)
    new = f"; {counts[Standing.NEW]} new" if counts[Standing.NEW] else ""
    if not run.exists:
        return f"no baseline of this environment, {run.key}: nothing compared{new}"
    found = ", ".join(f"{counts[standing]} {standing}" for standing in _COUNTED if counts[standing])
    stale = f"; {len(run.stale)} stale" if run.stale else ""
    return f"{compared} compared with {run.file}: {found or 'nothing measured is in it'}{new}{stale}"


def _missing(run: GateRun) -> Iterator[str]:
    if run.exists:
        return
    if run.nearest is not None:
        key, pairs = run.nearest
        yield f"nearest  {key}: {', '.join(f'{theirs}, here {ours}' for theirs, ours in pairs)}"
    if not run.written:
        yield f"         to begin one: --rssguard-baseline={run.given} --rssguard-update=new"


def _notices(run: GateRun) -> Iterator[str]:
    new = run.standings.get(Standing.NEW, ())
    added = {change.nodeid for change in run.changes} if run.written else set()
    if run.exists and (left := [name for name in new if name not in added]):
        yield from _names("new", left)
        yield "         to add them: --rssguard-update=new"
    if run.stale and not (run.written and run.mode is Mode.PRUNE):
        yield from _names("stale", run.stale)
        yield "         no longer in this complete run; to drop them: --rssguard-update=prune"
    yield from _names("waived", [_waiver(name, run.entries.get(name)) for name in run.standings.get(Standing.WAIVED, ())])
    over = [
        _waiver(name, entry)
        for name in run.standings.get(Standing.WITHIN, ())
        if (entry := run.entries.get(name)) is not None and entry.expires is not None and entry.expires < run.today
    ]
    if over:
        yield from _names("expired", over)
        yield "         these waivers are over, and not needed now: take expires out"
    if once := run.standings.get(Standing.ONCE, ()):
        yield from _names("once", once)
        yield "         over the limit at first, not when the body ran again: first-use cost"
    if run.outside:
        yield from _names("outside", run.outside)
        yield "         no baseline names them: outside pytest's rootdir, or too long"


def _waiver(name: str, entry: Entry | None) -> str:
    if entry is None or entry.expires is None:
        return name
    return f"{name} until {entry.expires.isoformat()}" + (f": {entry.note}" if entry.note else "")


def _names(label: str, names: Sequence[str]) -> Iterator[str]:
    for number, name in enumerate(names[:_MOST_NAMES]):
        yield f"{label if number == 0 else '':<9}{name}"
    if len(names) > _MOST_NAMES:
        yield f"         and {len(names) - _MOST_NAMES} more"


def _update(run: GateRun, *, quiet: bool) -> Iterator[str]:
    if run.kept:
        yield f"kept     {run.file} as it is: {run.kept}"
    for label, path in (("written", run.written), ("candidate", run.candidate)):
        if path:
            yield f"{label:<9}{'' if len(label) < 9 else ' '}{path}: {_kinds(run.changes)}"
    if not quiet and run.changes and (run.written or run.candidate):
        yield from change_table(run.changes)


def _kinds(changes: Sequence[Change]) -> str:
    kinds = [change.kind for change in changes]
    named = ("added", "raised", "lowered", "renewed", "dropped")
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in named if kind in kinds) or "nothing changed"


def change_table(changes: Sequence[Change]) -> Iterator[str]:
    """Yield a table of entries before and after."""
    yield f"{'change':<8} {'held':>20} {'retained':>20}  test"
    for change in changes[:_MOST_ROWS]:
        held, retained = (_step(_size(change.old, metric), _size(change.new, metric)) for metric in Metric)
        yield f"{change.kind:<8} {held:>20} {retained:>20}  {change.nodeid}"
    if len(changes) > _MOST_ROWS:
        yield f"and {len(changes) - _MOST_ROWS} more"


def _size(entry: Entry | None, metric: Metric) -> int | None:
    return None if entry is None else int(getattr(entry, metric))


def _step(old: int | None, new: int | None) -> str:
    """Return "9.00MiB -> 64.0KiB", or one size where it stays."""
    sizes = ["-" if size is None else format_size(size).replace(" ", "") for size in (old, new)]
    return sizes[0] if old == new else " -> ".join(sizes)
