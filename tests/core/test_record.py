from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.model import Account, Basis, Outcome
from pytest_rssguard.record import Block, HeapMap, Record, brief, from_json, loads
from tests.builders import accounts, record

SIZES = st.integers(-(1 << 57), 1 << 57)
TEXT = st.text(max_size=30)
ACCOUNTS = st.fixed_dictionaries({account: st.one_of(st.none(), SIZES) for account in Account})


def blocks() -> st.SearchStrategy[Block]:
    return st.builds(
        Block, label=TEXT, outcome=st.sampled_from(Outcome), growth=SIZES, held=SIZES, retained=SIZES, accounts=ACCOUNTS
    )


def heap_maps() -> st.SearchStrategy[HeapMap]:
    return st.builds(
        HeapMap,
        name=TEXT,
        start=st.integers(0, 1 << 57),
        page_size=st.just(4096),
        pages_per_cell=st.integers(1, 512),
        cells=st.from_regex(r"([LPTA.][0-9]{1,5})*", fullmatch=True, alphabet=st.characters(codec="ascii")),
    )


def records() -> st.SearchStrategy[Record]:
    return st.builds(
        Record,
        nodeid=TEXT,
        outcome=st.sampled_from(Outcome),
        masked=st.booleans(),
        judged=st.booleans(),
        tolerance=SIZES,
        basis=st.sampled_from(Basis),
        rss_untrimmed=SIZES,
        rss_before=SIZES,
        rss_after=SIZES,
        rss_settled=SIZES,
        growth=SIZES,
        allocated=st.one_of(st.none(), SIZES),
        held=SIZES,
        retained=SIZES,
        collected=SIZES,
        accounts=ACCOUNTS,
        rounds=st.lists(st.dictionaries(TEXT, SIZES, max_size=3), max_size=3).map(tuple),
        blocks=st.lists(blocks(), max_size=2).map(tuple),
        message=TEXT,
        hints=st.lists(TEXT, max_size=3).map(tuple),
        reason=st.one_of(st.none(), TEXT),
        worker=st.one_of(st.none(), TEXT),
        seconds=st.floats(0, 1e6),
        pins=st.lists(st.tuples(SIZES, SIZES), max_size=3).map(tuple),
        released=st.one_of(st.none(), st.tuples(SIZES, SIZES)),
        mappings=st.lists(st.tuples(TEXT, SIZES, SIZES), max_size=2).map(tuple),
        heap_map=st.lists(heap_maps(), max_size=2).map(tuple),
        regression=st.one_of(st.none(), st.fixed_dictionaries({"baseline": SIZES, "limit": SIZES})),
        file=TEXT,
        line=st.one_of(st.none(), st.integers(0, 1 << 31)),
        text=TEXT,
    )


@settings(deadline=None)
@given(records())
def test_a_record_comes_back_from_json_unchanged(original: Record) -> None:
    line = original.dumps()
    assert loads(line) == original
    assert loads(line).dumps() == line
    assert "\n" not in line


@settings(deadline=None, max_examples=30)
@given(records())
def test_a_record_becomes_values_that_json_has(original: Record) -> None:
    values = original.to_json()
    assert json.loads(json.dumps(values)) == values


def test_a_record_has_the_keys_of_schema_1() -> None:
    values = record().to_json()
    binding = {
        "nodeid", "outcome", "masked", "judged", "tolerance", "basis", "rss_untrimmed", "rss_before", "rss_after",
        "rss_settled", "growth", "allocated", "held", "retained", "collected", "accounts", "rounds", "message", "hints",
        "worker", "seconds", "blocks",
    }  # fmt: skip
    assert binding - values.keys() == set()
    assert list(values["accounts"]) == [
        "python_live", "malloc_live", "mapped", "stack", "shmem", "trimmable", "pinned", "free_heap", "arena_top",
        "pool_free", "tcache", "lazy_free", "file", "unexplained",
    ]  # fmt: skip


def test_a_block_has_the_keys_of_schema_1() -> None:
    block = Block(label="parse", outcome=Outcome.LEAKED, growth=3, held=3, retained=0, accounts=accounts(3))
    assert record(blocks=(block,)).to_json()["blocks"] == [
        {
            "label": "parse",
            "outcome": "leaked",
            "growth": 3,
            "held": 3,
            "retained": 0,
            "accounts": {account.value: 3 if account is Account.UNEXPLAINED else 0 for account in Account},
        }
    ]


def test_keys_that_a_later_version_adds_are_ignored() -> None:
    values = record().to_json()
    assert from_json({**values, "colour": "red"}) == record()


def test_keys_that_have_a_default_may_be_missing() -> None:
    values = record().to_json()
    for name in ("rounds", "blocks", "hints", "pins", "reason", "worker", "seconds", "message", "masked", "judged"):
        del values[name]
    assert from_json(values) == record()


@pytest.mark.parametrize("name", ["nodeid", "outcome", "basis", "accounts", "growth", "held", "tolerance"])
def test_a_record_without_what_it_needs_is_refused(name: str) -> None:
    values = record().to_json()
    del values[name]
    with pytest.raises(UnreadableError, match=r"^record: "):
        from_json(values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcome": "fine"},
        {"outcome": []},
        {"basis": None},
        {"accounts": {}},
        {"accounts": [1]},
        {"accounts": None},
        {"rounds": [1]},
        {"rounds": ["ab"]},
        {"hints": 5},
        {"pins": [[1]]},
        {"pins": [["a", 1]]},
        {"blocks": [{}]},
        {"blocks": [7]},
        {"blocks": None},
        {"growth": 1.5},
        {"growth": True},
        {"growth": "1"},
        {"growth": 1 << 63},
        {"growth": None},
        {"nodeid": 5},
        {"message": None},
        {"masked": 0},
        {"seconds": True},
        {"seconds": 10**400},
        {"line": -1},
        {"text": ["x"]},
        {"released": {}},
        {"released": {"predicted": 1}},
        {"released": 0},
        {"mappings": [["a", 1]]},
        {"mappings": [[1, 1, 1]]},
        {"heap_map": [{}]},
        {"heap_map": [{"name": "main", "start": 0, "page_size": 4096, "pages_per_cell": 1, "cells": "L"}]},
        {"heap_map": [{"name": "main", "start": -1, "page_size": 4096, "pages_per_cell": 1, "cells": "L1"}]},
        {"regression": {"limit": "much"}},
        {"regression": []},
        {"accounts": {**record().to_json()["accounts"], "pinned": 1.0}},
    ],
)
def test_a_record_with_values_of_another_shape_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError, match=r"^record: "):
        from_json({**record().to_json(), **wrong})


@pytest.mark.parametrize("line", ["", "{", "nonsense", "[]", "3", "null", '"text"', "9" * 5000])
def test_a_line_that_is_no_json_object_is_refused(line: str) -> None:
    with pytest.raises(UnreadableError, match=r"^record: "):
        loads(line)


def test_an_infinite_number_in_a_record_is_refused() -> None:
    line = record().dumps().replace('"pins":[]', '"pins":[[Infinity,1]]')
    with pytest.raises(UnreadableError, match=r"^record: "):
        loads(line)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "-Infinity"])
def test_a_number_that_is_none_is_refused(number: str) -> None:
    line = record().dumps().replace('"seconds":0.0', f'"seconds":{number}')
    with pytest.raises(UnreadableError, match=r"^record: "):
        loads(line)


def test_a_refusal_is_one_short_line() -> None:
    with pytest.raises(UnreadableError) as refused:
        from_json({**record().to_json(), "outcome": "x\n" * 100_000})
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)


def test_a_line_nested_too_deep_to_read_is_refused() -> None:
    with pytest.raises(UnreadableError, match=r"^record: "):
        loads("[" * 200_000)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_infinity=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


@settings(deadline=None)
@given(changes=st.dictionaries(st.sampled_from(tuple(record().to_json())), JSON, max_size=4))
def test_a_record_with_any_values_in_it_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        loads(json.dumps({**record().to_json(), **changes}))
    except UnreadableError:
        return


@settings(deadline=None)
@given(at=st.integers(0, 5000), noise=st.text(max_size=6), text=st.text(max_size=60))
@example(at=0, noise="", text="{}")
def test_a_damaged_line_is_read_or_refused(at: int, noise: str, text: str) -> None:
    line = record().dumps()
    cut = at % len(line)
    for damaged in (text, line[:cut], line[:cut] + noise + line[cut + len(noise) :]):
        try:
            loads(damaged)
        except UnreadableError:
            continue


def test_a_brief_record_reads_back_as_a_whole_one_whose_accounts_close() -> None:
    line = brief(
        nodeid="t.py::test", tolerance=4096, before=100_000, after=108_192, live=5000, nanoseconds=2_000_000_000, judged=True,
        worker="gw1", file="t.py", line=0,
    )  # fmt: skip
    found = loads(line)
    assert (found.nodeid, found.outcome, found.judged, found.worker) == ("t.py::test", Outcome.RETURNED, True, "gw1")
    assert (found.growth, found.held, found.rss_before, found.rss_settled) == (8192, 5000, 100_000, 108_192)
    assert sum(size or 0 for size in found.accounts.values()) == 8192
    assert found.seconds == 2.0


@given(
    nodeid=st.text(), file=st.text(), worker=st.none() | st.text(), judged=st.booleans(), line=st.none() | st.integers(0, 99)
)
def test_a_brief_record_carries_any_name(nodeid: str, file: str, worker: str | None, judged: bool, line: int | None) -> None:
    text = brief(
        nodeid=nodeid, tolerance=1, before=2, after=3, live=-4, nanoseconds=5, judged=judged, worker=worker, file=file,
        line=line,
    )  # fmt: skip
    assert json.loads(text) == {"brief": [nodeid, 1, 2, 3, -4, 5, judged, worker, file, line]}


@pytest.mark.parametrize("values", ["[]", '"text"', '["t", 1, 2, 3, 4, true, true, null, "f", 0]'])
def test_a_damaged_brief_record_is_refused(values: str) -> None:
    with pytest.raises(UnreadableError, match="no brief record"):
        loads(f'{{"brief": {values}}}')
