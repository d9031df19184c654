"""The Markdown report: a comment on a pull request, or a page of a CI service. Pure.

What tests are called and what their failures say is somebody else's text: it stands in code spans, code blocks or as
HTML entities, so that it can be no markup.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from pytest_rssguard.model import Outcome
from pytest_rssguard.record import Record
from pytest_rssguard.reporters.order import counts, worst_first
from pytest_rssguard.units import format_change, format_size

#: The first line: a bot that keeps one comment up to date finds it by this.
MARK: Final = "<!-- pytest-rssguard -->"
#: GitHub takes comments of up to 65,536 characters.
LARGEST: Final = 60_000
_TEXTS: Final = 30_000
_RESERVE: Final = 1_000
_LONGEST_NAME: Final = 300
#: Beyond these a name in a table could end its cell, its code span or its line.
_UNSAFE: Final = re.compile(r"[`|\\\x00-\x1f\x7f-\x9f\u2028\u2029]|^\s|\s$|^$")
_HARMLESS: Final = " /,-="
_RUN_OF_TICKS: Final = re.compile(r"`{3,}")


def render_markdown(records: Iterable[Record], environment: Mapping[str, Any], *, source: str = "") -> str:
    """Return the report of `records`, made in `environment`: at most LARGEST characters.

    `source`: what stands before a file's path in a link to it, such as "https://host/owner/name/blob/sha/".
    """
    ordered = worst_first(records)
    lines = [MARK, _result(ordered)]
    if ordered:
        texts = list(_texts(ordered))
        room = LARGEST - _RESERVE - sum(len(line) + 1 for line in texts)
        lines += [*_table(ordered, source=source, room=room), *texts]
    if key := environment.get("key"):
        lines += ["", f"Environment: {_code(_plain(str(key)))}"]
    return "\n".join(lines) + "\n"


def _result(records: Sequence[Record]) -> str:
    if not records:
        return "**rssguard: no test was measured**"
    tests = "1 test" if len(records) == 1 else f"{len(records)} tests"
    return f"**rssguard: {', '.join(counts(records))}** of {tests} measured"


def _table(records: Sequence[Record], *, source: str, room: int) -> Iterator[str]:
    baseline = any(record.regression for record in records)
    names = ["verdict", "held", "retained", "growth", "tolerance", *(["baseline"] if baseline else []), "test"]
    yield from ("", "<details><summary>All measured tests, worst first</summary>", "")
    yield f"| {' | '.join(names)} |"
    yield "|:--|" + "--:|" * (len(names) - 2) + ":--|"
    for at, record in enumerate(records):
        row = _row(record, baseline=baseline, source=source)
        room -= len(row) + 1
        if room < 0:
            yield from ("", f"{len(records) - at} more: see the JSON or the HTML report.")
            break
        yield row
    yield from ("", "</details>")


def _row(record: Record, *, baseline: bool, source: str) -> str:
    verdict = record.outcome.value + (", hidden" if record.masked else "") + (", regression" if record.regression else "")
    if not record.judged and record.outcome is not Outcome.NOT_JUDGED:
        verdict += " (not judged)"
    sizes = ["", "", ""]
    if record.outcome is not Outcome.NOT_JUDGED:
        sizes = [format_change(size) for size in (record.held, record.retained, record.growth)]
    cells = [verdict, *sizes, format_size(record.tolerance)]
    if baseline:
        cells.append(format_size(record.regression.get("baseline", 0)) if record.regression else "")
    return f"| {' | '.join(cells)} | {_link(record, source)} |"


def _link(record: Record, source: str) -> str:
    name = _code(_shorten(_plain(record.nodeid)))
    if not record.file or record.line is None:
        return name
    return f"[{name}]({source}{quote(_plain(record.file), safe='/')}#L{record.line})"


def _texts(records: Sequence[Record]) -> Iterator[str]:
    """Yield the failure texts, worst first, as many as there is room for."""
    failing = [record for record in records if (record.text and record.outcome is not Outcome.RETURNED) or record.regression]
    room = _TEXTS
    for at, record in enumerate(failing):
        text = _plain(record.text or record.message)
        fence = "`" * max([3, *(len(run) + 1 for run in _RUN_OF_TICKS.findall(text))])
        summary = f"{_shorten(_plain(record.nodeid))}: {_shorten(_plain(record.message))}"
        lines = [
            "", f"<details><summary>{html.escape(' '.join(summary.split()))}</summary>", "",
            f"{fence}text", text.rstrip("\n"), fence, "", "</details>",
        ]  # fmt: skip
        room -= sum(len(line) + 1 for line in lines)
        if room < 0:
            yield from ("", f"The texts of {len(failing) - at} more: see the HTML report.")
            return
        yield from lines


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME // 2]}…{text[-_LONGEST_NAME // 2 + 1 :]}"


def _plain(text: str) -> str:
    """Return `text` without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _code(text: str) -> str:
    """Return `text` as code in a table's cell, whatever it is."""
    if not _UNSAFE.search(text):
        return f"`{text}`"
    return "<code>" + "".join(char if char.isalnum() or char in _HARMLESS else f"&#{ord(char)};" for char in text) + "</code>"
