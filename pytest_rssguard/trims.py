"""What our own trims have emptied of the guarded program's heaps: filling that again is no growth of the program's."""

from __future__ import annotations

from typing import Final

from pytest_rssguard.probe import LinuxProbe

_EMPTIED: Final = 0
_TOTAL: Final = 1


class Trims:
    """Trims the heaps, and keeps the books on it. Sizes in bytes of RSS."""

    def __init__(self, probe: LinuxProbe) -> None:
        self._probe = probe
        # words: an int that is made between two readings would be a live block more
        self._words = memoryview(bytearray(16)).cast("Q")

    def trim(self) -> None:  # hot: allocates nothing that outlives the call
        """Purge the allocators; note by how much RSS fell."""
        words = self._words
        before = self._probe.rss()
        self._probe.malloc.purge()
        fallen = max(0, before - self._probe.rss())
        words[_EMPTIED] += fallen
        words[_TOTAL] += fallen

    @property
    def emptied(self) -> int:
        """No more than this is empty now because of our trims."""
        return int(self._words[_EMPTIED])

    @property
    def total(self) -> int:
        """All that our trims have ever given back."""
        return int(self._words[_TOTAL])

    def bound(self, hole: int, *, total: int) -> None:
        """Take note that no more than `hole` was empty because of us when the `total` was that: the rest is refilled."""
        self._words[_EMPTIED] = min(self._words[_EMPTIED], hole + self.total - total)
