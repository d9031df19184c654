"""Which of several rounds of one body decides, and what they say together. Pure.

Noise is one-sided: a cache that fills and a module that is loaded only add, and only once. So a body leaks what its best
round leaked, and grows by what its best round grew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_rssguard.model import Outcome
from pytest_rssguard.result import Result, Round
from pytest_rssguard.verdict import judge


def live_blocks(result: Result) -> int | None:
    """Return how many more blocks are live after the body, as the census at both ends counts them; None without."""
    then, now = result.then, result.census
    if then is None or now is None or not (then.closes and now.closes) or result.before is None or result.after is None:
        return None
    native = sum(heap.live_blocks for heap in now.heaps) - sum(heap.live_blocks for heap in then.heaps)
    return native + now.chunks - then.chunks + sum(result.after.blocks.values()) - sum(result.before.blocks.values())


def decide(results: Sequence[Result]) -> Result:
    """Return the result of the round that decides, with the verdict over all of them and each one's numbers.

    Leaked: every round held and allocated more than the tolerance; the one that held least decides. Otherwise the one
    whose RSS grew least (with a budget for freed memory: the one that retained least).
    """
    if len(results) == 1:
        return results[0]
    rounds = tuple(
        Round(
            growth=each.growth, held=each.held, retained=each.retained, allocated=each.allocated, blocks=live_blocks(each)
        )
        for each in results
    )  # fmt: skip
    outcomes = {each.verdict.outcome for each in results}
    if outcomes <= {Outcome.LEAKED, Outcome.UNMEASURABLE}:
        weakest = Outcome.UNMEASURABLE if Outcome.UNMEASURABLE in outcomes else Outcome.LEAKED
        candidates = [each for each in results if each.verdict.outcome is weakest]
        chosen = min(candidates, key=lambda each: (each.held, each.growth))
        verdict = chosen.verdict
    else:
        chosen = min(results, key=lambda each: each.growth if each.limit.budget is None else each.retained)
        verdict = chosen.verdict
        if verdict.outcome is Outcome.LEAKED and chosen.evidence is not None:
            verdict = judge(chosen.evidence, chosen.limit, leaks=False)
    number = next(i for i, each in enumerate(results, 1) if each is chosen)
    return replace(chosen, verdict=verdict, rounds=rounds, decided=number)
