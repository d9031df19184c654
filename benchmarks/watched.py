"""What `--rssguard-all` costs a suite of trivial tests: 2,000 of them, also beside 500,000 live containers.

Pairs of pytest processes with `-p no:rssguard` and with `--rssguard-all`, in turns; goal: the median of their ratios is at
most 1.25. Then the cost of one test as seen from outside all wrappers of pytest_runtest_call, in a suite of 200 and in one
of 2,000: it must not grow by more than 1.3, since what is paid for each test may not depend on how many there are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.installed import OUT, command, environment, run, write_tests

WALL: Final = 1.25
GROWTH: Final = 1.3
_ALL: Final = "--rssguard-all"
_CONFTEST: Final = """
import os
import time
from statistics import median

import pytest

LIVE = [[] for _ in range(int(os.environ.get("WATCHED_CONTAINERS", "0")))]
TIMES = []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item):
    started = time.perf_counter_ns()
    try:
        return (yield)
    finally:
        TIMES.append(time.perf_counter_ns() - started)


def pytest_unconfigure(config):
    if "WATCHED_ANSWER" in os.environ:
        with open(os.environ["WATCHED_ANSWER"], "w") as answer:
            answer.write(str(median(TIMES[len(TIMES) // 10 :])))
"""


def _folder(folder: Path, tests: int, containers: int) -> None:
    os.environ["WATCHED_CONTAINERS"] = str(containers)
    Path(folder, "conftest.py").write_text(_CONFTEST, encoding="utf-8")
    write_tests(folder, tests)
    run(folder, _ALL)


def wall(tests: int, containers: int, pairs: int) -> bool:
    """Time and print the pairs; return whether the goal is met."""
    plain: list[float] = []
    measured: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _folder(folder, tests, containers)
        for number in range(pairs):
            for options in ((OUT, (_ALL,)), ((_ALL,), OUT))[number % 2]:
                (measured if options == (_ALL,) else plain).append(run(folder, *options).wall)
    ratios = [here / there for here, there in zip(measured, plain, strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    met = middle <= WALL
    print(
        f"{tests:,} trivial tests, {containers:,} live containers, {pairs} pairs: plain {median(plain):.3f} s, "
        f"{_ALL} {median(measured):.3f} s; ratio {middle:.3f} (quartiles {low:.3f} to {high:.3f}, of minima "
        f"{min(measured) / min(plain):.3f}); goal <= {WALL}: {'met' if met else 'MISSED'}",
        flush=True,
    )
    return met


def _each(folder: Path, *more: str) -> float:
    """Return the median time of one test's call, in nanoseconds."""
    answer = folder / "answer"
    env = {**environment(folder), "WATCHED_ANSWER": str(answer)}
    subprocess.run(command(folder, *more), check=True, stdout=subprocess.DEVNULL, cwd=folder, env=env)
    return float(answer.read_text(encoding="ascii"))


def growth(sizes: tuple[int, int], repeats: int) -> bool:
    """Print what a test costs in a small and in a large suite; return whether it is about the same."""
    costs = []
    for tests in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _folder(folder, tests, 0)
            costs.append([_each(folder, _ALL) - _each(folder, *OUT) for _ in range(repeats)])
    small, large = (median(each) for each in costs)
    met = large <= GROWTH * small
    for tests, each in zip(sizes, costs, strict=True):
        print(
            f"cost of a test among {tests:,}: median of {repeats} {median(each) / 1000:.1f} us "
            f"({min(each) / 1000:.1f} to {max(each) / 1000:.1f})"
        )
    print(f"  ratio {large / small:.2f}; goal <= {GROWTH}: {'met' if met else 'MISSED'}", flush=True)
    return met


def main() -> int:
    """Run it all; answer 1 with --check where a goal is missed."""
    parser = argparse.ArgumentParser(description="The cost of --rssguard-all.")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of runs (default 15)")
    parser.add_argument("--repeats", type=int, default=9, help="runs for the cost of one test (default 9)")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    met = [
        wall(2000, 0, options.pairs),
        wall(2000, 500_000, options.pairs),
        growth((200, 2000), options.repeats),
    ]
    return int(options.check and not all(met))


if __name__ == "__main__":
    sys.exit(main())
