"""What a guarded test that does nothing costs, against the floor of its unavoidable parts.

The floor is measured in the same process, in turn with the guarded no-op, and makes the same kernel and library calls
without anything around them: two raw readings of smaps into touched shared memory, two mallinfo2, two pymalloc
statistics, the guard's own garbage collections, one malloc_trim(0). Goal: at most 1.3 times the floor, in a bare process
and in one with 500,000 live containers, called directly and through pytest's hook.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from typing import Final

GOAL: Final = 1.3
_ROOT: Final = Path(__file__).resolve().parent.parent


def _child(way: str, containers: int, rounds: int) -> dict[str, list[int]]:
    """Return the series that the child printed."""
    command = [sys.executable, "-m", f"benchmarks.noop_{way}", str(containers), str(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer")
        if way == "hook":  # its standard output is pytest's
            command.append(str(answer))
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=_ROOT)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        text = answer.read_text(encoding="utf-8") if way == "hook" else done.stdout
    return {name: [int(number) for number in numbers] for name, *numbers in map(str.split, text.splitlines())}


def _microseconds(times: list[int]) -> str:
    low, _, high = quantiles(times, n=4)
    return f"{median(times) / 1e3:8,.0f} us  (min {min(times) / 1e3:,.0f}, quartiles {low / 1e3:,.0f}-{high / 1e3:,.0f})"


def report(way: str, found: dict[str, list[int]]) -> bool:
    """Print one case; return whether it meets the goal."""
    floor, guarded = found["floor"], found["guarded"]
    low, _, high = quantiles([above / below for above, below in zip(guarded, floor, strict=True)], n=4)
    ratio = median(guarded) / median(floor)
    met = bool(ratio <= GOAL)
    print(f"{way}, {found['live'][0]:,} live containers, {len(floor)} pairs")
    print(f"  floor          {_microseconds(floor)}")
    print(f"  guarded no-op  {_microseconds(guarded)}")
    if "plain" in found:
        print(f"  unguarded hook {_microseconds(found['plain'])}  (in the guarded time, not in the floor)")
    if "floor-collections" in found:
        print(f"  generations collected: floor {found['floor-collections']}, guarded {found['guarded-collections']}")
    print(
        f"  ratio of medians {ratio:.3f}  (of minima {min(guarded) / min(floor):.3f}, "
        f"of pairs: quartiles {low:.3f}-{high:.3f}); goal <= {GOAL}: {'met' if met else 'MISSED'}",
        flush=True,
    )
    return met


def main() -> int:
    """Run every case in a process of its own, print it, and answer 1 with --check where a goal is missed."""
    parser = argparse.ArgumentParser(description="The cost of a guarded no-op test over its floor.")
    parser.add_argument("--rounds", type=int, default=200, help="pairs in each case (default 200)")
    parser.add_argument("--containers", type=int, default=500_000, help="live containers of the large process")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the goal is missed")
    options = parser.parse_args()
    met = [
        report(name, _child(way, containers, options.rounds))
        for way, name in (("direct", "Guard.begin + Guard.end"), ("hook", "pytest_runtest_call"))
        for containers in (0, options.containers)
    ]
    return int(options.check and not all(met))


if __name__ == "__main__":
    sys.exit(main())
