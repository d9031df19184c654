"""(b) Tests that allocate much and keep nothing: many short ones, a few long ones, or a single one."""

import os

import pytest

TESTS, OBJECTS = int(os.environ.get("PEERS_TESTS", "20")), int(os.environ.get("PEERS_OBJECTS", "100000"))


@pytest.mark.parametrize("number", range(TESTS))
def test_heavy(number: int) -> None:
    """Make so many objects, half of them strings that live together, half of them blocks of 2,000 B."""
    half = OBJECTS // 2
    assert len([(number, str(each)) for each in range(half)]) == half
    assert sum(len(bytearray(2_000)) for _ in range(half)) == 2_000 * half
