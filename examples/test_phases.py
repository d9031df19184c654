"""The fixture `rssguard`: judge or measure parts of one test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_rssguard.api import Blocks

MIB = 1 << 20


def test_load_and_query(rssguard: Blocks) -> None:
    """Loading may hold memory, and how much is measured; querying must give back all that it takes."""
    text = json.dumps([{"id": number, "name": f"user {number}"} for number in range(40_000)])

    with rssguard.measure(label="load") as load:  # measured only
        users = json.loads(text)
    assert MIB < load.held < 40 * MIB  # bytes; also load.growth, load.retained, load.ledger, str(load)

    with rssguard.returns("1MB", trim=True, label="query"):  # judged: raises like the marker
        assert max(len(user["name"]) for user in users) == len("user 39999")


def test_the_same_numbers_as_the_marker(rssguard: Blocks) -> None:
    """Every byte of growth is on exactly one account."""
    with rssguard.measure(label="keep") as m:
        kept = [bytearray(MIB) for _ in range(10)]
    assert m.growth == sum(size or 0 for size in m.ledger.values())
    assert m.held > 9 * MIB, kept
