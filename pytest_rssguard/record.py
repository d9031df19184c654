"""One measurement as it is reported: a flat value that becomes JSON and comes back unchanged. Schema 1."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Final

from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.json_values import array, count, flag, integer, mapping, number, parse_object, text
from pytest_rssguard.ledger import booked
from pytest_rssguard.model import Account, Basis, Outcome

SCHEMA: Final = 1
#: The longest complaint about one field, in characters: it may echo what stood there.
_LONGEST: Final = 120
_CELLS: Final = re.compile(r"(?:[LPTA.][0-9]{1,9})*")
#: Fields that a record cannot do without: those that `Record` has no default for, and what its numbers rest on.
_REQUIRED: Final = (
    "nodeid", "outcome", "basis", "tolerance", "rss_untrimmed", "rss_before", "rss_after", "rss_settled", "growth",
    "allocated", "held", "retained", "collected", "accounts",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One `with rssguard.returns(label=…)` inside a test."""

    label: str
    outcome: Outcome
    growth: int
    held: int
    retained: int
    accounts: Mapping[Account, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeapMap:
    """One heap drawn cell by cell: each cell stands for `pages_per_cell` pages from `start` (an address) on.

    `cells` is run-length coded, a letter and how many cells of it follow each other: "L12P300T4.90" (the count is always
    written). L live, P pinned, T trimmable, A arena top, "." not resident. A cell shows what most of its pages are.
    """

    name: str
    start: int
    page_size: int
    pages_per_cell: int
    cells: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one test did to memory. Sizes in bytes; the accounts sum to `growth`.

    `rss_untrimmed`: what RSS would have been at the baseline without our own trims.
    """

    nodeid: str
    outcome: Outcome
    masked: bool = False
    judged: bool = True
    tolerance: int
    basis: Basis = Basis.COUNTERS
    rss_untrimmed: int
    rss_before: int
    rss_after: int
    rss_settled: int
    growth: int
    allocated: int | None
    held: int
    retained: int
    collected: int
    accounts: Mapping[Account, int | None]
    rounds: tuple[Mapping[str, int], ...] = ()
    blocks: tuple[Block, ...] = ()
    message: str = ""
    hints: tuple[str, ...] = ()
    reason: str | None = None
    worker: str | None = None
    seconds: float = 0.0
    #: Live blocks on pages with freed memory: (size of the malloc chunk in bytes, blocks), the most blocks first.
    pins: tuple[tuple[int, int], ...] = ()
    #: What malloc_trim(0) was predicted to give back after the verdict, and what it did: (predicted, observed) bytes.
    released: tuple[int, int] | None = None
    #: Mappings by name whose resident bytes changed most: (name, before, after).
    mappings: tuple[tuple[str, int, int], ...] = ()
    #: One a heap, where a failing test's census was drawn (pytest_rssguard/heapmap.py).
    heap_map: tuple[HeapMap, ...] = ()
    #: The gate's finding: what the baseline allows and the limit that was passed, in bytes; None where none was.
    regression: Mapping[str, int] | None = None
    #: Where the test stands: a path below pytest's rootdir, and the line, counted from 1.
    file: str = ""
    line: int | None = None
    #: The whole failure text of a test that did not return its memory, "" for one that did.
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        values = asdict(self)
        values["accounts"] = {account.value: self.accounts[account] for account in Account}
        values["outcome"], values["basis"] = self.outcome.value, self.basis.value
        values["rounds"] = [dict(round_) for round_ in self.rounds]
        values["blocks"] = [
            {**asdict(block), "outcome": block.outcome.value,
             "accounts": {account.value: block.accounts[account] for account in Account}}
            for block in self.blocks
        ]  # fmt: skip
        values["hints"] = list(self.hints)
        values["pins"] = [list(pin) for pin in self.pins]
        values["mappings"] = [list(mapping) for mapping in self.mappings]
        values["heap_map"] = [asdict(heap) for heap in self.heap_map]
        values["released"] = self.released and {"predicted": self.released[0], "observed": self.released[1]}
        return values

    def dumps(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(self.to_json(), separators=(",", ":"))


def brief(
    *, nodeid: str, tolerance: int, before: int, after: int, live: int, nanoseconds: int, judged: bool, worker: str | None,
    file: str, line: int | None,
) -> str:  # fmt: skip
    """Return a record of a test in which no counter moved past the tolerance, as short as it can be: `loads` reads it.

    Sizes in bytes; `live` is the growth of malloc's live memory; `line` counts from 0, as pytest's location does.
    """
    # written by hand: json.dumps takes 6 us, and every test of a suite pays them
    by = "null" if worker is None else quoted(worker)
    at = "null" if line is None else line
    sizes = f"{tolerance}, {before}, {after}, {live}, {nanoseconds}"
    return f'{{"brief": [{quoted(nodeid)}, {sizes}, {"true" if judged else "false"}, {by}, {quoted(file)}, {at}]}}'


def _from_brief(values: object) -> Record:
    if not isinstance(values, list) or len(values) != 10 or any(type(size) is not int for size in values[1:6]):
        raise UnreadableError("record: no brief record")
    nodeid, tolerance, before, after, live, nanoseconds, judged, worker, file, line = values
    growth = after - before
    return Record(
        nodeid=str(nodeid), outcome=Outcome.RETURNED, judged=bool(judged), tolerance=tolerance, rss_untrimmed=before,
        rss_before=before, rss_after=after, rss_settled=after, growth=growth, allocated=live, held=live, retained=-live,
        collected=0, accounts=booked(growth, {Account.MALLOC_LIVE: live, Account.FREE_HEAP: -live}),
        rounds=({"growth": growth, "held": live, "retained": -live},), worker=None if worker is None else str(worker),
        seconds=nanoseconds / 1e9, file=str(file), line=line + 1 if type(line) is int else None,
    )  # fmt: skip


#: How each field of a record is read; those with more to them are read in `from_json`.
_READ: Final[Mapping[str, Callable[[object], Any]]] = {
    **dict.fromkeys(("nodeid", "message", "text", "file"), text),
    **dict.fromkeys(("masked", "judged"), flag),
    **dict.fromkeys(
        (
            "tolerance", "rss_untrimmed", "rss_before", "rss_after", "rss_settled", "growth", "held", "retained", "collected",
        ),
        integer,
    ),
    "allocated": lambda value: None if value is None else integer(value),
    "line": lambda value: None if value is None else count(value),
    "reason": lambda value: None if value is None else text(value),
    "worker": lambda value: None if value is None else text(value),
    "seconds": number,
    "outcome": lambda value: Outcome(text(value)),
    "basis": lambda value: Basis(text(value)),
    "accounts": lambda value: _accounts(mapping(value)),
    "rounds": lambda value: tuple(_integers(round_) for round_ in array(value)),
    "blocks": lambda value: tuple(_block(mapping(block)) for block in array(value)),
    "hints": lambda value: tuple(text(hint) for hint in array(value)),
    "pins": lambda value: tuple((integer(size), integer(blocks)) for size, blocks in map(array, array(value))),
    "released": lambda value: None if value is None else _released(mapping(value)),
    "mappings": lambda value: tuple(
        (text(name), integer(before), integer(after)) for name, before, after in map(array, array(value))
    ),
    "heap_map": lambda value: tuple(_heap(mapping(heap)) for heap in array(value)),
    "regression": lambda value: None if value is None else _integers(value),
}  # fmt: skip


def _integers(value: object) -> dict[str, int]:
    return {text(name): integer(size) for name, size in mapping(value).items()}


def _accounts(values: Mapping[str, object]) -> dict[Account, int | None]:
    return {account: None if values[account] is None else integer(values[account]) for account in Account}


def _released(values: Mapping[str, object]) -> tuple[int, int]:
    return integer(values["predicted"]), integer(values["observed"])


def _block(values: Mapping[str, object]) -> Block:
    return Block(
        label=text(values["label"]), outcome=Outcome(text(values["outcome"])), growth=integer(values["growth"]),
        held=integer(values["held"]), retained=integer(values["retained"]), accounts=_accounts(mapping(values["accounts"])),
    )  # fmt: skip


def _heap(values: Mapping[str, object]) -> HeapMap:
    cells = text(values["cells"])
    if not _CELLS.fullmatch(cells):
        raise ValueError("heap map: cells that are no letters with counts")
    return HeapMap(
        name=text(values["name"]), start=count(values["start"]), page_size=count(values["page_size"]),
        pages_per_cell=count(values["pages_per_cell"]), cells=cells,
    )  # fmt: skip


def from_json(values: Mapping[str, Any]) -> Record:
    """Return the record that `to_json` made. Unknown keys are ignored: later versions add some.

    Raises UnreadableError, one line that names the field at fault.
    """
    if "brief" in values:
        return _from_brief(values["brief"])
    known: dict[str, Any] = {}
    for name, read in _READ.items():
        if name not in values:
            continue
        try:
            known[name] = read(values[name])
        except KeyError as error:
            raise UnreadableError(f"record: {name}: {error.args[0]!s} is missing") from None
        except (TypeError, ValueError) as error:
            raise UnreadableError(f"record: {name}: {str(error)[:_LONGEST]}") from None
    missing = [name for name in _REQUIRED if name not in known]
    if missing:
        raise UnreadableError(f"record: {missing[0]} is missing")
    return Record(**known)


def loads(line: str) -> Record:
    """Return the record in one line of JSON. Raises UnreadableError."""
    values = parse_object(line, what="record")
    return from_json(values)
