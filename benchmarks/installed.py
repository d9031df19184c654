"""What the plugin costs where it is installed and no test is guarded: 2,000 trivial tests with and without it.

Pairs of subprocesses, in alternating order, with the plugin and with `-p no:rssguard`. Goal: the median of the pairs'
differences is at most 1 % of the time without. Also proves that the plugin imports neither psutil nor ctypes.

Modules are compiled once, as on a user's machine: PYTHONDONTWRITEBYTECODE is taken out, since with it pytest rewrites and
compiles each plugin anew in every run. The difference is smaller than the noise of a pair, so `--instructions` also counts
the instructions of one run of each kind under valgrind: that number repeats to 1 in 100,000.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final

GOAL: Final = 0.01
HEAVY: Final = ("ctypes", "psutil")
OUT: Final = ("-p", "no:rssguard")
_IMPORT: Final = """
import sys, pytest
before = set(sys.modules)
import pytest_rssguard.plugin
print(*sorted(set(sys.modules) - before))
"""
_AT_END: Final = """
import sys

def pytest_unconfigure(config):
    sys.stderr.write("installed " + str(config.pluginmanager.has_plugin("rssguard")) + "\\n")
    sys.stderr.write(" ".join(sorted(sys.modules)) + "\\n")
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run, in seconds."""

    wall: float
    cpu: float


def command(folder: Path, *more: str) -> list[str]:
    """Return how pytest is started on the tests in `folder`."""
    # other plugins that are installed here only add noise, on both sides
    quiet = ("-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest")
    return [sys.executable, "-m", "pytest", *quiet, "-c", os.devnull, "--rootdir", str(folder), *more, str(folder)]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment for it: what is compiled is kept in `folder`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder / "compiled"), "PYTHONHASHSEED": "0"}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(folder: Path, *more: str) -> Cost:
    """Run pytest once."""
    cpu, started = _cpu(), time.perf_counter()
    subprocess.run(command(folder, *more), check=True, stdout=subprocess.DEVNULL, cwd=folder, env=environment(folder))
    return Cost(wall=time.perf_counter() - started, cpu=_cpu() - cpu)


def count_instructions(folder: Path, *more: str) -> int:
    """Count the instructions of one run of pytest, system calls left out."""
    tool = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}")
    done = subprocess.run(
        [*tool, *command(folder, *more)], check=True, capture_output=True, text=True, cwd=folder, env=environment(folder)
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise SystemExit(f"valgrind printed no count: {done.stderr[-300:]}")
    return int(found[1])


def write_tests(folder: Path, tests: int) -> None:
    """Write that many trivial tests, and run them once each way."""
    text = "".join(f"def test_{number}():\n    pass\n\n" for number in range(tests))
    Path(folder, "test_trivial.py").write_text(text, encoding="utf-8")
    run(folder)  # compiles everything
    run(folder, *OUT)


def instructions(tests: int) -> bool:
    """Print how many instructions the plugin adds, all in all and to each test."""
    if shutil.which("valgrind") is None:
        raise SystemExit("--instructions needs valgrind")
    added = {}
    for number in (1, tests):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_tests(folder, number)
            base = count_instructions(folder, *OUT)
            added[number] = count_instructions(folder) - base
    share = added[tests] / base
    each = (added[tests] - added[1]) / (tests - 1)
    print(
        f"instructions, {tests:,} trivial tests: without {base:,}, with {added[tests]:+,} ({share:+.2%}): "
        f"{added[1]:,} once, {each:,.0f} a test; {'met' if share <= GOAL else 'MISSED'}"
    )
    return share <= GOAL


def overhead(pairs: int, tests: int, *, control: bool) -> bool:
    """Time the pairs and print them; return whether the goal is met. `control`: the same command on both sides."""
    without: list[Cost] = []
    having: list[Cost] = []
    more = OUT if control else ()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tests(folder, tests)
        for number in range(pairs):
            if number % 2:
                without.append(run(folder, *OUT))
                having.append(run(folder, *more))
            else:
                having.append(run(folder, *more))
                without.append(run(folder, *OUT))
    title = "control: without the plugin on both sides" if control else "plugin installed, no test guarded"
    print(f"{title}, {tests:,} trivial tests, {pairs} pairs")
    share = 0.0
    for kind in ("wall", "cpu"):
        base = [float(getattr(cost, kind)) for cost in without]
        with_plugin = [float(getattr(cost, kind)) for cost in having]
        relative = [above / below - 1 for above, below in zip(with_plugin, base, strict=True)]
        low, _, high = quantiles(relative, n=4)
        print(
            f"  {kind:4}: without {median(base):.3f} s (min {min(base):.3f}), with {median(with_plugin):.3f} s "
            f"(min {min(with_plugin):.3f}); median of pairs {median(relative):+.2%} "
            f"(quartiles {low:+.2%} to {high:+.2%}), of minima {min(with_plugin) / min(base) - 1:+.2%}"
        )
        if kind == "wall":
            share = median(relative)
    met = share <= GOAL
    if not control:
        print(f"  goal <= {GOAL:.0%} of wall time, median of pairs: {'met' if met else 'MISSED'}", flush=True)
    return met or control


def imports_nothing_heavy() -> bool:
    """Print what importing the plugin imports, and whether a whole unguarded run leaves psutil and ctypes out."""
    done = subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True)
    imported = done.stdout.split()
    found = [name for name in imported if name.partition(".")[0] in HEAVY]
    print(f"import pytest_rssguard.plugin, after pytest: {', '.join(imported)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Path(folder, "conftest.py").write_text(_AT_END, encoding="utf-8")
        Path(folder, "test_one.py").write_text("def test_one():\n    pass\n", encoding="utf-8")
        ran = subprocess.run(command(folder), check=True, capture_output=True, text=True, cwd=folder)
    installed, modules = ran.stderr.splitlines()[-2:]
    if installed != "installed True":
        raise SystemExit("the plugin is not installed for this interpreter")
    at_end = [heavy for heavy in HEAVY if heavy in modules.split()]
    print(f"  of {', '.join(HEAVY)}: by the import {found or 'none'}; at the end of an unguarded run {at_end or 'none'}")
    return not found and not at_end


def main() -> int:
    """Run it all; answer 1 with --check where a goal is missed."""
    parser = argparse.ArgumentParser(description="The cost of the plugin where no test is guarded.")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of runs (default 15)")
    parser.add_argument("--tests", type=int, default=2000, help="trivial tests in each run (default 2000)")
    parser.add_argument("--control", action="store_true", help="also time pairs without the plugin on both sides: the noise")
    parser.add_argument("--instructions", action="store_true", help="also count instructions, by valgrind: 2 min")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    met = [imports_nothing_heavy(), overhead(options.pairs, options.tests, control=False)]
    if options.instructions:
        met.append(instructions(options.tests))
    if options.control:
        overhead(options.pairs, options.tests, control=True)
    return int(options.check and not all(met))


if __name__ == "__main__":
    sys.exit(main())
