from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.fingerprint import find_hash, parse_functions

PLAIN = "def test_a(x):\n    y = x + 1\n    assert y\n"


def hash_of(source: str, line: int = 1) -> str:
    return find_hash(parse_functions(source), line)


@pytest.mark.parametrize(
    "same",
    [
        "def test_a(x):  # why\n\n    y = (x\n + 1)\n    assert y\n",
        'def test_a(x):\n    """Words."""\n    y = x + 1\n    assert y\n',
        "def test_renamed(x):\n    y = x + 1\n    assert y\n",
        '@pytest.mark.rss_returns(tolerance="4MB")\ndef test_a(x):\n    y = x + 1\n    assert y\n',
        "@rssguard.mark.rss_returns\ndef test_a(x):\n    y = x + 1\n    assert y\n",
    ],
)
def test_layout_words_name_and_our_marker_do_not_count(same: str) -> None:
    assert hash_of(same) == hash_of(PLAIN)


@pytest.mark.parametrize(
    "other",
    [
        "def test_a(x):\n    y = x + 2\n    assert y\n",
        "def test_a(x, z):\n    y = x + 1\n    assert y\n",
        "async def test_a(x):\n    y = x + 1\n    assert y\n",
        "@parametrize('x', [1, 2])\ndef test_a(x):\n    y = x + 1\n    assert y\n",
    ],
)
def test_what_the_test_does_counts(other: str) -> None:
    assert hash_of(other) != hash_of(PLAIN)
    assert len(hash_of(other)) == 12


def test_a_line_is_in_its_innermost_function() -> None:
    source = "class Test:\n    @mark\n    def test_a(self):\n        def inner():\n            pass\n        inner()\n\nx = 1\n"
    functions = parse_functions(source)
    outer = find_hash(functions, 2)
    assert {find_hash(functions, line) for line in (2, 3, 6)} == {outer}
    assert find_hash(functions, 4) == find_hash(functions, 5) != outer
    assert find_hash(functions, 1) == find_hash(functions, 8) == ""


@pytest.mark.parametrize("source", ["def broken(:", "\x00", "(" * 5000, ""])
def test_what_is_no_python_has_no_functions(source: str) -> None:
    assert parse_functions(source) == ()


def test_lone_surrogates_have_a_hash() -> None:
    assert hash_of("def test_a():\n    return '\\ud800'\n")


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read(source: str) -> None:
    parse_functions(source)
