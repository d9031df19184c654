"""Started by guarded_noop.py: time the floor and a guarded no-op in turn, in a process that has imported little else."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Final

from benchmarks.floor import Floor, timed
from pytest_rssguard.guard import Guard
from pytest_rssguard.model import Limit

TOLERANCE: Final = 4 << 20
WARMUP: Final = 5


class Guarded:
    """One guarded test body that does nothing, without pytest."""

    def __init__(self) -> None:
        self.guard = Guard()
        self._limit = Limit(tolerance=TOLERANCE)

    def __call__(self) -> None:
        """Measure nothing."""
        self.guard.end(self.guard.begin(self._limit))


def collections(call: Callable[[], None]) -> list[int]:
    """Return the generations that `call` collects, in order."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    try:
        call()
    finally:
        gc.callbacks.remove(note)
    return found


def main(containers: int, rounds: int) -> None:
    """Print one line for each series: its name and its numbers."""
    live: list[list[int]] = [[] for _ in range(containers)]
    floor, guarded = Floor(), Guarded()
    if guarded.guard.blind:
        raise SystemExit(f"this process cannot be measured: {guarded.guard.blind}")
    for _ in range(WARMUP):
        floor()
        guarded()
    below, above = [0] * rounds, [0] * rounds
    for number in range(rounds):
        if number % 2:
            below[number] = timed(floor)
            above[number] = timed(guarded)
        else:
            above[number] = timed(guarded)
            below[number] = timed(floor)
    print("live", len(live))
    print("floor", *below)
    print("guarded", *above)
    print("floor-collections", *collections(floor))
    print("guarded-collections", *collections(guarded))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
