"""Keep of several rounds what decides, and no more: rounds may be many, and what is kept must not grow with them."""

from __future__ import annotations

from pytest_rssguard.guard import Guard
from pytest_rssguard.result import Result, Round
from pytest_rssguard.rounds import decide, new_blocks
from pytest_rssguard.settings import Settings
from pytest_rssguard.span import Held, Plan


class Rounds:
    """The rounds of one test so far."""

    def __init__(self, guard: Guard, settings: Settings) -> None:
        self._guard = guard
        self._settings = settings
        self._rounds: list[Round] = []
        self._kept: dict[int, Result | Held] = {}
        self._failing = True

    def plan(self, number: int) -> Plan:
        """Return how round `number` is taken: the first finds a trimmed heap; the last is looked at from both ends."""
        last = number == self._settings.rounds
        return Plan(
            trim=self._settings.trim,
            within=self._settings.within,
            purge=number == 1,
            release=last,
            several=self._settings.rounds > 1,
            follows=number > 1,
            census=last and number > 1 and self._failing,
        )

    def add(self, number: int, found: Result | Held) -> None:
        """Take in what round `number` found."""
        one = Round(growth=found.growth, held=found.held, retained=_retained(found))
        self._rounds.append(one)
        tolerance = self._settings.limit.tolerance
        self._failing = self._failing and max(one.growth, one.held) > tolerance
        self._kept[number] = found
        # of equals the latest: the last round's blocks are counted
        best = {min(self._kept, key=lambda each: (key(self._kept[each]), -each)) for key in (_growth, _held, _retained)}
        for other in [each for each in self._kept if each not in best]:
            gone = self._kept.pop(other)
            if isinstance(gone, Held):
                self._guard.drop(gone)

    def drop(self) -> None:
        """Forget all: the body failed on its own."""
        for found in self._kept.values():
            if isinstance(found, Held):
                self._guard.drop(found)
        self._kept.clear()

    def decide(self) -> Result:
        """Decode what was kept, and let it decide."""
        results = {
            number: self._guard.resolve(found) if isinstance(found, Held) else found for number, found in self._kept.items()
        }
        for number, result in results.items():
            self._rounds[number - 1] = Round(
                growth=result.growth, held=result.held, retained=result.retained, allocated=result.allocated,
                blocks=new_blocks(result),
            )  # fmt: skip
        return decide(results, self._rounds)


def _growth(found: Result | Held) -> int:
    return found.growth


def _held(found: Result | Held) -> int:
    return found.held


def _retained(found: Result | Held) -> int:
    return found.retained if isinstance(found, Result) else found.growth - found.held
