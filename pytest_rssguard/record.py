"""One measurement as it is reported: a flat value that becomes JSON and comes back unchanged. Schema 1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.ledger import booked
from pytest_rssguard.model import Account, Basis, Outcome

SCHEMA: Final = 1


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
    #: The whole failure text, "" where the memory came back; where the test stands: its file and line, from 1.
    text: str = ""
    file: str = ""
    line: int | None = None

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
    return json.dumps({"brief": [nodeid, tolerance, before, after, live, nanoseconds, judged, worker, file, line]})


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


def _accounts(values: Mapping[str, Any]) -> dict[Account, int | None]:
    return {account: values[account.value] for account in Account}


def from_json(values: Mapping[str, Any]) -> Record:
    """Return the record that `to_json` made. Unknown keys are ignored: later versions add some."""
    try:
        known = {name: values[name] for name in Record.__dataclass_fields__ if name in values}
        known["outcome"], known["basis"] = Outcome(values["outcome"]), Basis(values["basis"])
        known["accounts"] = _accounts(values["accounts"])
        known["rounds"] = tuple(dict(round_) for round_ in values.get("rounds", ()))
        known["hints"] = tuple(values.get("hints", ()))
        known["pins"] = tuple((int(size), int(count)) for size, count in values.get("pins", ()))
        known["mappings"] = tuple((str(name), int(old), int(new)) for name, old, new in values.get("mappings", ()))
        released = values.get("released")
        known["released"] = released and (int(released["predicted"]), int(released["observed"]))
        known["heap_map"] = tuple(
            HeapMap(**{name: heap[name] for name in HeapMap.__dataclass_fields__}) for heap in values.get("heap_map", ())
        )
        known["blocks"] = tuple(
            Block(
                label=block["label"], outcome=Outcome(block["outcome"]), growth=block["growth"], held=block["held"],
                retained=block["retained"], accounts=_accounts(block["accounts"]),
            )
            for block in values.get("blocks", ())
        )  # fmt: skip
        return Record(**known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"record: {type(error).__name__} {error}") from None


def loads(line: str) -> Record:
    """Return the record in one line of JSON. Raises UnreadableError."""
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UnreadableError(f"record: {error}") from None
    if not isinstance(values, dict):
        raise UnreadableError(f"record: expected an object, got {type(values).__name__}")
    return _from_brief(values["brief"]) if "brief" in values else from_json(values)
