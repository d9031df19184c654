"""(e) Leaked, trimmable, pinned and masked memory of 15 MiB or more."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bodies import LIBC, ctypes

PATTERN = os.environ["PEERS_PATTERN"]
KEPT: list[object] = []


def fill(count: int = 16_000) -> list[int]:
    """Return touched blocks of 1,000 bytes."""
    blocks = [LIBC.malloc(1_000) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, 1_000)
    return blocks


def leaked() -> None:
    """Lose 15 MiB."""
    fill()


def trimmable() -> None:
    """Free 15 MiB under a block that stays."""
    blocks = fill()
    LIBC.malloc(100_000)
    for block in blocks:
        LIBC.free(block)


def pinned() -> None:
    """Free three of four blocks: the fourth holds the page. 8.7 MiB freed, 2.9 MiB live."""
    for index, block in enumerate(fill(12_000)):
        if index % 4:
            LIBC.free(block)


def masked() -> None:
    """Leak 15 MiB of floats into arenas that an earlier test left pinned, if there are such."""
    KEPT.append([float(number) for number in range(500_000)])


if PATTERN == "masked":
    ARENAS = [float(number) for number in range(900_000)]
    KEPT.append(ARENAS[::4_000])
    del ARENAS

if os.environ["PEERS_TOOL"] == "psleak":
    import psleak

    class TestPattern(psleak.MemoryLeakTestCase):
        """psleak calls it again and again: 2 warm-up calls and at most 2 runs of 2 calls here."""

        def test_pattern(self) -> None:
            """Call."""
            self.execute(globals()[PATTERN], warmup_times=1, times=2, retries=2)

else:

    @pytest.mark.parametrize("pattern", [PATTERN])
    def test_pattern(pattern: str) -> None:
        """Call once."""
        globals()[pattern]()
