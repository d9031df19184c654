"""The Markdown report: whole texts in tests/core/golden/, rewritten when RSSGUARD_FIX_GOLDEN=1 is set, then read by eye."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_rssguard.model import Outcome
from pytest_rssguard.record import Record
from pytest_rssguard.reporters.markdown import LARGEST, MARK, render_markdown
from pytest_rssguard.reporters.terminal import table
from pytest_rssguard.source_link import source_base
from tests.builders import MIB, record
from tests.made_up_run import ENVIRONMENT, made_up_run

GOLDEN: Final = Path(__file__).parent / "golden"
EVERY_OUTCOME: Final = (
    record("tests/test_a.py::test_fine", growth=-4096, file="tests/test_a.py", line=3),
    record("tests/test_a.py::test_skipped", outcome=Outcome.NOT_JUDGED, judged=False, tolerance=512 << 10),
    record("tests/test_a.py::test_seen", judged=False, growth=2 * MIB, file="tests/test_a.py", line=9),
    record(
        "tests/test_a.py::test_hidden", outcome=Outcome.LEAKED, masked=True, held=30 * MIB, retained=-30 * MIB,
        message="RssLeak: 30.0 MiB leaked, hidden: RSS +0 B (tolerance 4.00 MiB)", file="tests/test_a.py", line=17,
        text="30.0 MiB leaked, hidden: RSS +0 B (tolerance 4.00 MiB)\n\nmeaning   LEAKED\n",
    ),
    record(
        "tests/test b.py::test_kept[a|b]", outcome=Outcome.RETAINED, growth=80_000_000, retained=80_000_000,
        message="RssRetained: 76.3 MiB freed, not returned (tolerance 4.00 MiB), no leak", file="tests/test b.py", line=1,
        text="76.3 MiB freed, not returned (tolerance 4.00 MiB), no leak\n\nmeaning   NOT A LEAK\n",
    ),
    record("tests/test_a.py::test_grew", outcome=Outcome.GREW, growth=5 * MIB, message="RssNotReturned: RSS +5.00 MiB"),
    record("tests/test_a.py::test_unclear", outcome=Outcome.UNMEASURABLE, growth=5 * MIB, held=5 * MIB),
    record(
        "tests/test_a.py::test_more", growth=3 * MIB, held=3 * MIB, regression={"baseline": MIB, "limit": 2 * MIB},
        message="RssRegression: 3.00 MiB held (baseline 1.00 MiB)", file="tests/test_a.py", line=40,
    ),
)  # fmt: skip


def check_golden(name: str, actual: str) -> None:
    path = GOLDEN / name
    if os.environ.get("RSSGUARD_FIX_GOLDEN") == "1":
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8")


def test_the_report_of_every_outcome() -> None:
    check_golden("report.md", render_markdown(EVERY_OUTCOME, ENVIRONMENT, source="https://host/o/r/blob/c0ffee/"))


def test_the_table_of_every_outcome() -> None:
    check_golden("report.table", "\n".join(table(EVERY_OUTCOME, width=80)) + "\n")


def test_the_first_line_is_hidden_and_the_next_is_the_whole_result() -> None:
    lines = render_markdown(made_up_run(200), {}).splitlines()
    assert lines[0] == MARK == "<!-- pytest-rssguard -->"
    assert lines[1] == "**rssguard: 4 leaked, 6 retained, 1 grew, 1 unmeasurable, 188 returned** of 200 tests measured"


def test_a_run_of_nothing_is_a_report() -> None:
    assert render_markdown([], {}) == f"{MARK}\n**rssguard: no test was measured**\n"


@pytest.mark.parametrize(("tests", "failing"), [(5000, 120), (3000, 3000), (400, 0), (1, 1)])
def test_a_report_is_never_larger_than_a_comment_may_be(tests: int, failing: int) -> None:
    text = render_markdown(made_up_run(tests, failing=failing), ENVIRONMENT)
    assert len(text) <= LARGEST
    rows = len(re.findall(r"^\| (?!verdict)", text, re.MULTILINE))
    more = re.search(r"^(\d+) more: see the JSON or the HTML report\.$", text, re.MULTILINE)
    assert rows + (int(more[1]) if more else 0) == tests
    assert text.count("<details>") == text.count("</details>")


def test_one_monstrous_name_is_shortened() -> None:
    made = record("t" * 1_000_000, outcome=Outcome.LEAKED, message="m" * 1_000_000, text="x" * 1_000_000)
    assert len(render_markdown([made], {})) < 4_000


def test_without_a_base_links_are_relative() -> None:
    assert "[`tests/test_a.py::test_fine`](tests/test_a.py#L3)" in render_markdown(EVERY_OUTCOME, {})


def test_a_text_with_fences_stays_in_its_block() -> None:
    made = record("a", outcome=Outcome.LEAKED, message="RssLeak: a", text="`````\n</details>\n```")
    text = render_markdown([made], {})
    assert "``````text\n`````\n</details>\n```\n``````\n" in text


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=40), min_size=1, max_size=5, unique=True))
@example(["</details>", ""])
def test_no_name_breaks_its_row(names: list[str]) -> None:
    made = [record(name, outcome=Outcome.LEAKED, message=name, text=name, file=name, line=1) for name in names]
    text = render_markdown(made, {"key": names[0]})
    text.encode("utf-8")
    rows = rows_of(text.partition("\n</details>")[0])[1:]  # a name may be that tag: never at the start of a line
    assert len(rows) == len(names)
    for row in rows:
        assert row.count("|") == 7
        code = row.split("|")[6].strip().removeprefix("[").rpartition("](")[0] or row.split("|")[6].strip()
        assert re.fullmatch(r"`[^`]+`|<code>(?:[\w /,=-]|&#\d+;)*</code>", code, re.DOTALL)


GITHUB: Final = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "o/r", "GITHUB_SHA": "c0ffee"}
GITLAB: Final = {"CI_PROJECT_URL": "https://gitlab.com/o/r", "CI_COMMIT_SHA": "c0ffee"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ""),
        (GITHUB, "https://github.com/o/r/blob/c0ffee/"),
        ({**GITHUB, "GITHUB_WORKSPACE": "/w/r"}, "https://github.com/o/r/blob/c0ffee/py%20lib/"),
        ({**GITHUB, "GITHUB_WORKSPACE": "/w/r/py lib"}, "https://github.com/o/r/blob/c0ffee/"),
        ({**GITHUB, "GITHUB_WORKSPACE": "/elsewhere"}, "https://github.com/o/r/blob/c0ffee/"),
        ({**GITHUB, "GITHUB_SHA": ""}, ""),
        (GITLAB, "https://gitlab.com/o/r/-/blob/c0ffee/"),
        ({**GITLAB, "CI_PROJECT_DIR": "/w/r"}, "https://gitlab.com/o/r/-/blob/c0ffee/py%20lib/"),
    ],
)
def test_links_lead_to_the_commit_under_test(environ: dict[str, str], expected: str) -> None:
    assert source_base(environ, rootdir="/w/r/py lib") == expected


def test_the_longest_list_of_texts_says_how_many_it_leaves_out() -> None:
    made: list[Record] = made_up_run(300, failing=300)
    text = render_markdown(made, {})
    shown = text.count("```text")
    left = re.search(r"^The texts of (\d+) more: see the HTML report\.$", text, re.MULTILINE)
    assert left
    assert shown + int(left[1]) == 300
