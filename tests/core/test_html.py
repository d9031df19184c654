"""The HTML page as text: what it carries, that nothing in it can become code or a request, and how large it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.model import Account, Outcome
from pytest_rssguard.reporters.html import render_html
from tests.builders import MIB, record
from tests.made_up_run import ENVIRONMENT, made_up_run

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> ]]> {{script}} {{data}} \ud800 \u2028 &lt; ' \""


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="rssguard-data">(.*?)</script>', page, re.DOTALL)
    assert found
    values: dict[str, Any] = json.loads(found[1])
    return values


def test_the_page_carries_every_test_with_its_numbers() -> None:
    records = made_up_run(50)
    data = data_of(render_html(records, ENVIRONMENT))
    assert data["environment"] == ENVIRONMENT
    tests = [dict(zip(data["columns"], values, strict=True)) for values in data["tests"]]
    for made, test in zip(records, tests, strict=True):
        assert data["outcomes"][test["outcome"]] == made.outcome.value
        assert test["accounts"] == [made.accounts[account] for account in Account]
        same = ("nodeid", "growth", "held", "retained", "rss_before", "rss_after", "rss_settled", "collected", "tolerance")
        assert {name: test[name] for name in same} == {name: getattr(made, name) for name in same}
    assert [account["name"] for account in data["accounts"]] == [account.value for account in Account]


def test_what_a_failing_test_has_is_on_the_page() -> None:
    made = next(each for each in made_up_run(50) if each.pins and each.heap_map)
    (detail,) = data_of(render_html([made], {}))["details"].values()
    assert detail["message"] + "\n" + detail["text"] == made.text
    assert detail["pins"][0] == ["24 bytes or less", made.pins[0][1]]
    assert detail["heap_map"][0][4] == made.heap_map[0].cells
    assert detail["mappings"] == [list(mapping) for mapping in made.mappings]
    assert detail["released"] == list(made.released or ())


def test_the_policy_allows_exactly_the_style_and_the_script_of_the_page() -> None:
    page = render_html(made_up_run(3, failing=1), ENVIRONMENT)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; ")
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy[1]


def test_the_page_names_no_address_that_could_be_loaded() -> None:
    page = render_html(made_up_run(200), ENVIRONMENT)
    addresses = set(re.findall(r"[a-z]+://[^\s\"'`]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace; nothing is loaded by it
    assert not re.findall(r"\b(?:src|href|url|action|@import)\s*[=(]", page.partition("<script")[0])
    assert "innerHTML" not in page
    assert " style=" not in page


def hostile_parts(page: str) -> list[str]:
    return re.findall(r"</?script[^>]*>|<!--|<img", page)


def test_what_tests_are_called_cannot_become_markup() -> None:
    plain = hostile_parts(render_html([record("a", outcome=Outcome.LEAKED, growth=MIB, message="a", text="a")], {"key": "a"}))
    made = record(HOSTILE, outcome=Outcome.LEAKED, message=HOSTILE, text=HOSTILE, reason=HOSTILE, worker=HOSTILE, file=HOSTILE,
                  mappings=((HOSTILE, 1, 2),), hints=(HOSTILE,))  # fmt: skip
    page = render_html([made], {"key": HOSTILE, HOSTILE: HOSTILE})
    assert hostile_parts(page) == plain
    data = data_of(page)
    assert data["tests"][0][0] == HOSTILE
    assert page.encode("utf-8")


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_name_comes_back_from_the_page(name: str) -> None:
    page = render_html([record(name, message=name)], {"key": name})
    page.encode("utf-8")
    assert data_of(page)["tests"][0][0] == name


def test_a_run_of_nothing_is_a_page() -> None:
    page = render_html([], {})
    assert "<h1>no test was measured</h1>" in page
    assert data_of(page)["tests"] == []


def test_two_hundred_tests_take_at_most_200_kib() -> None:
    assert len(render_html(made_up_run(200, failing=20), ENVIRONMENT).encode()) <= 200 << 10


def test_every_file_of_the_page_can_be_read_in_one_sitting() -> None:
    folder = Path(str(files("pytest_rssguard.reporters") / "page"))
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in folder.iterdir()}
    assert {"page.html", "page.css", "page.js"} <= lines.keys()
    assert max(lines.values()) <= 300, lines
