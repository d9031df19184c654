"""(b) Tests that allocate much and keep nothing."""

import pytest


@pytest.mark.parametrize("number", range(20))
def test_heavy(number: int) -> None:
    """Make 100,000 objects, and large blocks."""
    assert len([(number, str(each)) for each in range(50_000)]) == 50_000
    assert sum(len(bytearray(2_000)) for _ in range(50_000)) == 100_000_000
