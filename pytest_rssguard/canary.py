"""Plant a pattern between two readings of the guard, and judge what it said: the proof that it can fail on this machine.

`python -m pytest_rssguard.canary NAME` in a fresh process plants one and prints what the guard said, as JSON. `assess`
compares that with the bytes that were planted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from pytest_rssguard.api import measure
from pytest_rssguard.model import RETAINED, Account, Outcome
from pytest_rssguard.planting import FLOATS, PLANTS, Ground, Plant
from pytest_rssguard.units import format_size

TOLERANCE: Final = 4 << 20
#: What may be on top of the planted bytes: page ends, the objects of the measurement, glibc's own data.
_SLACK: Final = 256 << 10
#: What a plant of freed memory may keep beside what is known: blocks that lie on top, the caches of a thread.
_MOST_LIVE: Final = 1 << 20


class Answer(StrEnum):
    """How what was found compares with what was planted."""

    RIGHT = "right"
    COARSE = "coarse"
    WRONG = "WRONG"
    BLIND = "blind"
    ABSENT = "not here"

    @property
    def passes(self) -> bool:
        """Whether it speaks for the guard. A plant that cannot exist here says nothing about it."""
        return self in {Answer.RIGHT, Answer.COARSE, Answer.ABSENT}


def bounds(planted: int) -> tuple[int, int]:
    """Return the fewest and the most bytes that may be found of `planted`: some fit into holes, some page ends are more."""
    return planted - planted // 50 - _SLACK, planted + planted // 50 + _SLACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the guard said of one plant. Sizes in bytes.

    `planted` counts the plant anew with the blocks as large as they are here; `absent`: why it cannot be made here, or "".
    """

    outcome: str
    planted: int = 0
    allocated: int | None = None
    masked: bool = False
    why: str = ""
    growth: int = 0
    accounts: Mapping[str, int | None]
    problems: tuple[str, ...] = ()
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One plant, what was found, and what that is worth. `size`: bytes on the account, None where nobody divided them."""

    plant: Plant
    answer: Answer
    finding: Finding
    size: int | None = None
    said: tuple[str, ...] = ()


def find(plant: Plant) -> Finding:
    """Plant it in this process and return what the guard said. Once in a process: nothing is cleared up."""
    ground = Ground()
    # CPython: 0 where pymalloc is not in force (sys.getallocatedblocks); asked of Python, not of our own probe
    if plant.needs_pools and not sys.getallocatedblocks():
        return Finding(outcome="", accounts={}, absent="Python's objects do not come from pymalloc here (PYTHONMALLOC)")
    plant.prepare(ground)
    with measure(TOLERANCE) as measured:
        plant.body(ground)
    planted = plant.planted
    if plant.needs_pools:
        planted = FLOATS * _block_of_a_float()
    if ground.in_main_heap:
        return Finding(outcome="", accounts={}, absent="threads have no heaps of their own here (MALLOC_ARENA_MAX=1)")
    result = measured.result
    return Finding(
        outcome=result.verdict.outcome.value, masked=result.verdict.masked, why=result.verdict.why, growth=result.growth,
        planted=planted, allocated=result.allocated,
        accounts={account.value: size for account, size in result.accounts.items()},
        problems=result.census.problems if result.census else (),
    )  # fmt: skip


def _block_of_a_float() -> int:
    """Return how far apart floats lie, in bytes: 32, or 48 with PYTHONMALLOC=debug. Asked of Python, not of our own probe."""
    found = [float(index) for index in range(2_000)]
    places = sorted(map(id, found))
    return min(after - before for before, after in pairwise(places))


def assess(plant: Plant, finding: Finding, *, census: bool) -> Check:
    """Return what `finding` is worth. `census`: whether this machine can divide freed heap memory; if not, it need not."""
    if finding.absent:
        return Check(plant=plant, answer=Answer.ABSENT, finding=finding, said=(finding.absent,))
    if finding.outcome == Outcome.UNMEASURABLE:
        return Check(plant=plant, answer=Answer.BLIND, finding=finding, said=(finding.why,))
    size = finding.accounts.get(plant.account) if plant.account else finding.growth
    coarse = not census and size is None and plant.account in RETAINED
    if coarse:
        size = finding.accounts.get(Account.FREE_HEAP)
    said = tuple(_objections(plant, finding, size, census=census))
    answer = Answer.WRONG if said else Answer.COARSE if coarse else Answer.RIGHT
    return Check(plant=plant, answer=answer, finding=finding, size=size, said=said)


def _objections(plant: Plant, finding: Finding, size: int | None, *, census: bool) -> Iterator[str]:
    """Yield everything that is wrong with `finding`, where `size` bytes are on the account."""
    if finding.outcome != plant.outcome:
        yield f"the verdict is {finding.outcome!r}{f' ({finding.why})' if finding.why else ''}"
    if finding.masked != plant.masked:
        yield f"RSS {'hides' if finding.masked else 'shows'} it, by its word"
    total = sum(each or 0 for each in finding.accounts.values())
    if total != finding.growth:
        yield f"the accounts sum to {total:,} B of {finding.growth:,} B of growth"
    unexplained = finding.accounts.get(Account.UNEXPLAINED) or 0
    if census:
        if abs(unexplained) > abs(finding.growth) // 100 + _SLACK:
            yield f"{format_size(unexplained)} unexplained"
        yield from finding.problems
    yield from _outside(size, finding.planted, str(plant.account.value if plant.account else "all accounts"))
    if plant.outcome is Outcome.LEAKED:
        yield from _outside(finding.allocated, finding.planted, "the allocators' own counters")
    elif finding.allocated is None or abs(finding.allocated - plant.kept) > _MOST_LIVE:
        yield f"{finding.allocated} B allocated, where {plant.kept:,} B were kept"


def _outside(size: int | None, planted: int, where: str) -> Iterator[str]:
    least, most = bounds(planted)
    if size is None:
        yield f"nothing is said of {where}"
    elif not least <= size <= most:
        yield f"{format_size(size)} on {where}, not {format_size(least)} to {format_size(most)}"


def parse_finding(text: str) -> Finding:
    """Return the finding that the process of a plant printed. Raises ValueError on anything else."""
    try:
        found = json.loads(text)
        return Finding(**{**found, "problems": tuple(found["problems"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"no finding in {text[:80]!r}") from error


def main(name: str) -> None:
    """Plant the pattern `name` here and print what the guard said."""
    (plant,) = (each for each in PLANTS if each.name == name)
    found = find(plant)
    fields = {key: getattr(found, key) for key in Finding.__slots__}
    sys.stdout.write(json.dumps(fields) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
