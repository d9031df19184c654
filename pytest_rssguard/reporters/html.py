"""The HTML report: one file, no network, no dependency. Pure: records in, a page out.

The page carries its data as JSON and draws itself, with the style sheet and the scripts of the folder `page`. Its content
security policy allows these by their hashes and nothing else, so that no name or message of a test can become code.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from pytest_rssguard.explain import MEANING, block_size
from pytest_rssguard.model import HELD, RETAINED, Account, Outcome
from pytest_rssguard.record import Block, Record
from pytest_rssguard.reporters.order import OUTCOMES, counts, worst_first
from pytest_rssguard.version import VERSION

_SCRIPTS: Final = ("format.js", "charts.js", "heap_map.js", "detail.js", "table.js", "page.js")
_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")
#: Numbers of a test that the table sorts and draws, in this order in the page's data.
_COLUMNS: Final = (
    "nodeid", "outcome", "masked", "judged", "basis", "tolerance", "rss_before", "rss_after", "rss_settled", "growth",
    "allocated", "held", "retained", "collected", "accounts", "worker", "seconds", "line",
)  # fmt: skip


def render_html(records: Iterable[Record], environment: Mapping[str, Any]) -> str:
    """Return the page for `records`, made in `environment`."""
    listed = list(records)
    style, script = _read("page.css"), _script()
    headline = ", ".join(counts(listed)) or "no test was measured"
    values = {
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "headline": html.escape(headline),
        "subtitle": html.escape(_subtitle(listed, environment)),
        "data": _embed(_data(listed, environment)),
    }  # fmt: skip
    return _PLACE.sub(lambda place: values[place[1]], _read("page.html"))


def _read(name: str) -> str:
    return (files("pytest_rssguard.reporters") / "page" / name).read_text(encoding="utf-8")


def _script() -> str:
    return '\n(() => {\n"use strict";\n' + "\n".join(_read(name) for name in _SCRIPTS) + "})();\n"


def _hash(text: str) -> str:
    """Return `text` as a source of a content security policy (Level 2, 4.2.5)."""
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _subtitle(records: Sequence[Record], environment: Mapping[str, Any]) -> str:
    tests = "1 test" if len(records) == 1 else f"{len(records):,} tests"
    parts = [f"{tests} measured", str(environment.get("key") or ""), f"pytest-rssguard {VERSION}"]
    return " · ".join(part for part in parts if part).encode("utf-8", "replace").decode("utf-8")


def _embed(values: Mapping[str, Any]) -> str:
    """Return `values` as JSON in ASCII that cannot end the script element, nor begin a comment in it."""
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


def _data(records: Sequence[Record], environment: Mapping[str, Any]) -> dict[str, Any]:
    place = {id(record): at for at, record in enumerate(records)}
    return {
        "environment": dict(environment),
        "outcomes": [outcome.value for outcome in OUTCOMES],
        "accounts": [{"name": account.value, "meaning": MEANING[account], "group": _group(account)} for account in Account],
        "columns": list(_COLUMNS),
        "tests": [_row(record) for record in records],
        "details": {str(at): detail for at, record in enumerate(records) if (detail := _detail(record))},
        "worst_first": [place[id(record)] for record in worst_first(records)],
    }


def _group(account: Account) -> str:
    return "held" if account in HELD else "retained" if account in RETAINED else account.value


def _row(record: Record) -> list[Any]:
    values: dict[str, Any] = {
        "outcome": OUTCOMES.index(record.outcome),
        "masked": int(record.masked),
        "judged": int(record.judged and record.outcome is not Outcome.NOT_JUDGED),
        "basis": record.basis.value,
        "accounts": _accounts(record.accounts),
        "seconds": round(record.seconds, 4),
    }
    return [values[name] if name in values else getattr(record, name) for name in _COLUMNS]


def _accounts(accounts: Mapping[Account, int | None]) -> list[int | None]:
    return [accounts[account] for account in Account]


def _detail(record: Record) -> dict[str, Any]:
    """Return what only an opened test shows, without what it has not."""
    values = {
        "file": record.file if record.file != record.nodeid.partition("::")[0] else "",
        "message": record.message,
        "text": _below_message(record),
        "rss_untrimmed": record.rss_untrimmed if record.rss_untrimmed - record.rss_before > record.tolerance // 8 else None,
        "hints": [] if record.text else list(record.hints),
        "reason": record.reason,
        "rounds": [[each.get(name) for name in ("growth", "held", "retained")] for each in record.rounds]
        if len(record.rounds) > 1 else [],
        "blocks": [_block(block) for block in record.blocks],
        "pins": [[block_size(size), blocks] for size, blocks in record.pins],
        "released": record.released,
        "mappings": [list(mapping) for mapping in record.mappings],
        "heap_map": [[heap.name, heap.start, heap.page_size, heap.pages_per_cell, heap.cells] for heap in record.heap_map],
        "regression": record.regression and dict(record.regression),
    }  # fmt: skip
    return {name: value for name, value in values.items() if value}


def _below_message(record: Record) -> str:
    """Return the failure text without its first line where that only repeats the message."""
    first, _, rest = record.text.partition("\n")
    return rest if first and record.message.endswith(first) else record.text


def _block(block: Block) -> list[Any]:
    return [block.label, block.outcome.value, block.growth, block.held, block.retained, _accounts(block.accounts)]
