from __future__ import annotations

import json
import string
from collections.abc import Iterator
from datetime import date
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_rssguard import baseline as module
from pytest_rssguard.baseline import QUANTUM, Baseline, Entry, dump_baseline, may_stand, parse_baseline, round_up
from pytest_rssguard.errors import UnreadableBaselineError
from pytest_rssguard.json_stream import LARGEST_VALUE, PIECE
from tests.builders import KIB, MIB

KEY: Final = "linux-x86_64-cp311-glibc2.36-pymalloc"
NODEID: Final = "tests/test_a.py::test_b"
SIZES = st.integers(0, 1 << 40).map(round_up)
NODEIDS = st.text(max_size=40).map(lambda name: f"tests/test_a.py::{name}").filter(may_stand)


def entries() -> st.SearchStrategy[Entry]:
    return st.builds(
        Entry,
        held=SIZES,
        retained=SIZES,
        samples=st.lists(SIZES, max_size=7).map(tuple),
        retained_samples=st.lists(SIZES, max_size=7).map(tuple),
        src=st.text(string.hexdigits, max_size=12),
        note=st.one_of(st.none(), st.text(max_size=30)),
        expires=st.one_of(st.none(), st.dates()),
    )


def baselines() -> st.SearchStrategy[Baseline]:
    return st.builds(Baseline, key=st.just(KEY), tests=st.dictionaries(NODEIDS, entries(), max_size=6))


def pieces(text: str, length: int = PIECE) -> Iterator[str]:
    return (text[at : at + length] for at in range(0, len(text), length))


def read(text: str) -> Baseline:
    return parse_baseline(pieces(text), key=KEY)


def refusal(text: str) -> str:
    with pytest.raises(UnreadableBaselineError) as refused:
        read(text)
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) < 300
    return line


def told(text: str) -> str:
    """Return what the reader says of `text`, "" where it reads it; one line that is not long."""
    try:
        read(text)
    except UnreadableBaselineError as error:
        return str(error)
    return ""


def written(**changes: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps({"schema": 1, "environment": {"key": KEY}, "tests": {}, **changes})


def entry(**changes: Any) -> str:  # noqa: ANN401 - any JSON value
    return written(tests={NODEID: {"held": 0, "retained": 0, "samples": [], "src": "", **changes}})


@settings(deadline=None)
@given(baselines(), st.integers(1, PIECE))
def test_a_baseline_comes_back_unchanged_however_its_text_is_cut(original: Baseline, length: int) -> None:
    text = dump_baseline(original)
    back = parse_baseline(pieces(text, length), key=KEY)
    assert back == original
    assert dump_baseline(back) == text


@settings(deadline=None)
@given(baselines())
def test_the_text_is_json_sorted_and_the_same_in_any_order_of_tests(original: Baseline) -> None:
    text = dump_baseline(original)
    values = json.loads(text)
    assert list(values) == ["schema", "environment", "tests"]
    assert list(values["tests"]) == sorted(original.tests)
    backwards = Baseline(key=KEY, tests=dict(reversed(list(original.tests.items()))))
    assert dump_baseline(backwards) == text
    assert text.isascii()
    assert text.endswith("}\n")


def test_the_text_has_one_line_a_field_and_nothing_of_the_moment() -> None:
    tests = {
        NODEID: Entry(held=65536, retained=0, samples=(65536, 131072), src="a91f03c2b7de"),
        "tests/test_a.py::test_a": Entry(
            held=0, retained=MIB, retained_samples=(MIB, MIB), note="GH-123", expires=date(2027, 3, 31)
        ),
    }
    assert dump_baseline(Baseline(key=KEY, tests=tests)) == (
        '{\n  "schema": 1,\n'
        '  "environment": {"key": "linux-x86_64-cp311-glibc2.36-pymalloc"},\n'
        '  "tests": {\n'
        '    "tests/test_a.py::test_a": {\n      "held": 0,\n      "retained": 1048576,\n      "samples": [],\n'
        '      "retained_samples": [1048576, 1048576],\n      "src": "",\n      "note": "GH-123",\n'
        '      "expires": "2027-03-31"\n    },\n'
        '    "tests/test_a.py::test_b": {\n      "held": 65536,\n      "retained": 0,\n'
        '      "samples": [65536, 131072],\n      "src": "a91f03c2b7de"\n    }\n'
        "  }\n}\n"
    )


@given(st.integers(-(1 << 40), 1 << 40))
def test_sizes_are_rounded_up_and_never_negative(size: int) -> None:
    up = round_up(size)
    assert up % QUANTUM == 0
    assert max(size, 0) <= up < max(size, 0) + QUANTUM


def test_a_file_that_was_laid_out_anew_by_hand_is_read() -> None:
    values = json.loads(written(tests={NODEID: {"retained": 5, "held": 7}}))
    for text in (json.dumps(values, indent=8), json.dumps(values, separators=(",", ":")), json.dumps(values, sort_keys=True)):
        assert read(text).tests == {NODEID: Entry(held=7, retained=5)}
    assert read(f" \n{written()}\n\n").tests == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no baseline: character 1: it ends too early"),
        ("[]", "no baseline: character 1: expected '{', got '['"),
        ("{}", "no baseline: schema is missing"),
        ("{", "no baseline: character 2: Expecting value"),
        ('{"schema"', "no baseline: character 10: it ends too early"),
        ('{"schema" 1}', "no baseline: character 11: expected ':', got '1'"),
        ("{1: 2}", "no baseline: character 3: expected a name in quotes"),
        ('{"schema": 1 "tests": {}}', "no baseline: character 14: expected ',', got '\"'"),
        (written() + "x", f"no baseline: character {len(written()) + 1}: expected the end"),
        ('{"schema": NaN}', "no baseline: character 12: expected whole numbers only, got NaN"),
        ('{"schema": Infinity}', "no baseline: character 12: expected whole numbers only, got Infinity"),
        ('{"schema": 1e999}', "no baseline: character 12: expected whole numbers only, got 1e999"),
        ('{"schema": 1.0}', "no baseline: character 12: expected whole numbers only, got 1.0"),
        (written(schema=2), "schema 2 is newer than 1, which this version reads: update pytest-rssguard"),
        (written(schema=10**30), "schema 10000000000000000000 is newer than 1"),
        (written(schema=0), "schema 0: expected 1"),
        (written(schema=True), "schema True: expected 1"),
        (written(schema=None), "schema None: expected 1"),
        (written(schema="1"), "schema '1': expected 1"),
        (written(environment=None), "it holds the baseline of None; expected 'linux-x86_64-cp311"),
        (written(environment="x"), "it holds the baseline of None; expected"),
        (written(environment={"key": "../../etc/passwd"}), "it holds the baseline of '../../etc/passwd'; expected"),
        (written(environment={"key": ["x"]}), "it holds the baseline of ['x']; expected"),
        (written(tests=[]), "no baseline: character 89: expected '{', got '['"),
        (written(more=1), "no baseline: 'more' where one of schema, environment, tests belongs"),
        (written()[:-1] + ', "tests": {}}', "no baseline: 'tests' where one of"),
        ('{"schema": 1, "environment": {"key": "%s"}}' % KEY, "no baseline: tests is missing"),  # noqa: UP031 - braces
        (entry(held=-1), f"test {NODEID!r}: held: expected no negative number, got -1"),
        (entry(held="big"), f"test {NODEID!r}: held: expected an integer, got 'big'"),
        (entry(held=True), f"test {NODEID!r}: held: expected an integer, got True"),
        (entry(held=None), f"test {NODEID!r}: held: expected an integer, got None"),
        (entry(retained=1 << 60), f"test {NODEID!r}: retained: no size: {1 << 60}"),
        (entry(retained=10**400), f"test {NODEID!r}: retained: integer of more than 63 bits"),
        (entry(samples=3), f"test {NODEID!r}: samples: expected a list, got 3"),
        (entry(samples=[[]]), f"test {NODEID!r}: samples: expected an integer, got list"),
        (entry(samples=[0] * 101), f"test {NODEID!r}: samples: expected at most 100"),
        (entry(src=3), f"test {NODEID!r}: src: expected a text, got 3"),
        (entry(note="x" * 5000), f"test {NODEID!r}: note: longer than 4,096 characters"),
        (entry(expires="soon"), f"test {NODEID!r}: expires: expected a day such as \"2027-03-31\", got 'soon'"),
        (entry(expires=2027), f"test {NODEID!r}: expires: expected a text, got 2027"),
        (entry(expire="2027-03-31"), f"test {NODEID!r}: unknown 'expire', did you mean 'expires'?"),
        (entry(zzz=1), f"test {NODEID!r}: unknown 'zzz'"),
        (written(tests={NODEID: 3}), f"test {NODEID!r}: expected an object, got 3"),
        (written(tests={NODEID: {"held": 1}}), f"test {NODEID!r}: retained is missing"),
        (written(tests={NODEID: {}}), f"test {NODEID!r}: held is missing"),
        (written(tests={"../x.py::t": {}}), "test '../x.py::t': expected the nodeid of a test below pytest's rootdir"),
        (written(tests={"/etc/passwd": {}}), "test '/etc/passwd': expected the nodeid of a test below pytest's rootdir"),
        (written(tests={"a/../../x.py::t": {}}), "test 'a/../../x.py::t': expected the nodeid"),
        (written(tests={"a\\..\\x.py::t": {}}), "test 'a\\\\..\\\\x.py::t': expected the nodeid"),
        (written(tests={"": {}}), "test '': expected the nodeid"),
        (written(tests={"a\x00b": {}}), "test 'a\\x00b': expected the nodeid"),
        (written(tests={"x" * 7000: {}}), "test 'xxx"),
        (
            '{"schema": 1, "tests": {"a": {"held": 0, "retained": 0}, "a": {"held": 0, "retained": 0}}}',
            "test 'a': stands there twice",
        ),
        ('{"schema": 1, "tests": ' + '{"a":' * 9000, "no baseline: character 29: "),
        ('{"schema": ' + "[" * 9000, "no baseline: character 12: "),
        ('{"schema": ' + "[" * 90_000, "no baseline: character 12: "),
        ('{"schema": "' + "x" * 90_000, "no baseline: character 12: no JSON, or a value too long"),
        ('{"schema": ' + "9" * 6000 + "}", "no baseline: character 12: Exceeds the limit"),
        (" " * 100_000, "no baseline: character 100001: it ends too early"),
    ],
)  # fmt: skip
def test_what_is_no_baseline_is_refused_in_one_line(text: str, expected: str) -> None:
    assert refusal(text).startswith(expected)


def test_two_values_of_a_part_are_the_last() -> None:
    assert read(f'{{"schema": 1, "schema": 1, {written()[1:]}').tests == {}


def test_more_tests_than_any_suite_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TESTS", 2)
    tests = {f"t{number}": {"held": 0, "retained": 0} for number in range(3)}
    assert refusal(written(tests=tests)) == "more than 2 tests"


def test_every_cut_of_a_baseline_is_refused() -> None:
    text = dump_baseline(Baseline(key=KEY, tests={NODEID: Entry(held=65536, retained=0, samples=(65536,), src="ab")}))
    for length in range(len(text) - 1):
        if text[:length].strip() != text.strip():
            assert refusal(text[:length])


@settings(deadline=None)
@given(st.text(max_size=300))
@example("\ud800")
@example('{"tests": {"\\ud800": {"held": 0, "retained": 0}}}')
def test_any_text_is_read_or_refused(text: str) -> None:
    assert "\n" not in told(text)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    JSON,
    st.dictionaries(st.sampled_from(("held", "retained", "samples", "src", "note", "expires", "x")), JSON, max_size=6),
    st.sampled_from(("schema", "environment", "tests", "other")),
)
def test_any_json_in_any_place_is_read_or_refused(value: object, fields: dict[str, object], place: str) -> None:
    for text in (written(**{place: value}), written(tests={NODEID: fields}), written(tests={NODEID: value})):
        assert "\n" not in told(text)
        assert len(told(text)) < 300


@settings(deadline=None)
@given(st.data())
def test_a_damaged_baseline_is_read_or_refused(data: st.DataObject) -> None:
    text = dump_baseline(data.draw(baselines()))
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 20))
    broken = text[:at] + data.draw(st.text(max_size=5)) + text[at + length :]
    assert "\n" not in told(broken)


def test_what_may_stand_can_be_read_again_with_the_longest_of_everything() -> None:
    size = 1 << 57
    nodeid = "t.py::" + "\U0001f600" * ((LARGEST_VALUE // 2 - 8) // 12)
    assert may_stand(nodeid)
    assert not may_stand(nodeid + "\U0001f600")
    longest = Entry(
        held=size, retained=size, samples=(size,) * 100, retained_samples=(size,) * 100, src="a" * 12, note="ä" * 682,
        expires=date(2027, 1, 1),
    )  # fmt: skip
    original = Baseline(key=KEY, tests={nodeid: longest})
    assert read(dump_baseline(original)) == original


def test_a_long_file_is_read_in_small_pieces() -> None:
    tests = {f"tests/test_{number}.py::test": Entry(held=number * QUANTUM, retained=0) for number in range(2000)}
    text = dump_baseline(Baseline(key=KEY, tests=tests))
    assert len(text) > 128 * KIB
    assert read(text).tests == tests
