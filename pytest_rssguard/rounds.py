"""Which of several rounds of one body decides, and what they say together. Pure.

Noise is one-sided: a cache that fills and a module that is loaded only add, and only once. So a body leaks what its best
round leaked, and grows by what its best round grew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_rssguard.model import MallocStats, Outcome
from pytest_rssguard.result import Result, Round
from pytest_rssguard.verdict import judge


def new_blocks(result: Result) -> int | None:
    """Return how many more blocks are live after the body; None where nobody counted them.

    pymalloc counts its own. malloc's are counted by censuses at both ends, if these themselves left nothing behind.
    """
    if result.before is None or result.after is None or result.before.malloc is None or result.after.malloc is None:
        return None
    python = sum(result.after.blocks.values()) - sum(result.before.blocks.values())
    then, now = result.then, result.now or result.census
    if then is None or now is None or then.malloc is None or now.malloc is None or not (then.closes and now.closes):
        return python if _in_use(result.before.malloc) == _in_use(result.after.malloc) else None
    if _in_use(result.before.malloc) - _in_use(then.malloc) != _in_use(result.after.malloc) - _in_use(now.malloc):
        return None
    return now.live_blocks - then.live_blocks + python


def _in_use(stats: MallocStats) -> int:
    return stats.uordblks - (stats.tcache or 0) + stats.hblkhd


def decide(results: Mapping[int, Result], rounds: Sequence[Round]) -> Result:
    """Return the result of the round that decides, with the verdict over all of them and each one's numbers.

    `results`: by number, from 1, at least those of the rounds that grew least, that held least, and that retained least.
    Leaked: every round held and allocated more than the tolerance; the one that held least decides. Otherwise the one
    whose RSS grew least (with a budget for freed memory: the one that retained least).
    """
    outcomes = {each.verdict.outcome for each in results.values()}
    if outcomes <= {Outcome.LEAKED, Outcome.UNMEASURABLE}:
        weakest = Outcome.UNMEASURABLE if Outcome.UNMEASURABLE in outcomes else Outcome.LEAKED
        candidates = {number: each for number, each in results.items() if each.verdict.outcome is weakest}
        number, chosen = min(candidates.items(), key=lambda each: (each[1].held, each[1].growth, -each[0]))
        verdict = chosen.verdict
    else:
        budget = next(iter(results.values())).limit.budget
        number, chosen = min(
            results.items(), key=lambda each: (each[1].growth if budget is None else each[1].retained, -each[0])
        )
        verdict = chosen.verdict
        if verdict.outcome is Outcome.LEAKED and chosen.evidence is not None:
            verdict = judge(chosen.evidence, chosen.limit, leaks=False)
    return replace(chosen, verdict=verdict, rounds=tuple(rounds), decided=number)
