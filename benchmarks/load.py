"""Are verdicts the same under load? The truth table again and again: four processes at a time, threads, busy loops.

Each run is tests/truth_cases.py in a random order in a process of its own, with four threads in it that allocate and free
all the time; four runs go on at once, beside as many busy loops as there are processors, so that on two of them some 20
threads want to run. A run takes 35 s of processor time, most of it in those threads. Prints every verdict that differs
from the table's, and exits with 1 if there is one. `unmeasurable` with its reason is no difference, nor is `returned`
where a body refilled what earlier cases had left free.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.truth_cases import CASES  # noqa: E402 - behind the path

TOLERANCE = 4 << 20
_BUSY = "while True: pass"


def run(seed: int, threads: int, nice: int) -> list[dict[str, Any]]:
    """Return what one run found."""
    script = str(ROOT / "tests" / "truth_cases.py")
    command = ["nice", "-n", str(nice), sys.executable, script, "--shuffle", str(seed), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return [{"case": "", "outcome": "crashed", "why": done.stderr[-500:], "growth": 0, "growth_untrimmed": 0}]
    return [json.loads(line) for line in done.stdout.splitlines()]


def differs(found: dict[str, Any]) -> bool:
    """Whether the verdict is another one than the table has."""
    if not found["case"]:
        return True
    expected = CASES[found["case"]].outcome
    if found["outcome"] == expected or (found["outcome"] == "unmeasurable" and found["why"]):
        return False
    refilled = min(found["growth"], found["growth_untrimmed"]) <= TOLERANCE
    return not (expected == "retained" and found["outcome"] == "returned" and refilled)


def main() -> int:
    """Run, count, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=4, help="threads in each run that allocate and free")
    parser.add_argument("--at-once", type=int, default=4, help="runs at a time")
    parser.add_argument("--nice", type=int, default=0, help="of the runs, not of the busy loops (0); 19 leaves them 1 % (slow)")
    given = parser.parse_args()
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(os.cpu_count() or 1)]
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    wrong = 0
    try:
        with ThreadPoolExecutor(given.at_once) as pool:
            for seed, findings in enumerate(pool.map(lambda seed: run(seed, given.threads, given.nice), range(given.runs))):
                for found in findings:
                    outcomes[found["outcome"]] += 1
                    if differs(found):
                        wrong += 1
                        print(f"seed {seed}: {json.dumps(found)}", flush=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    counted = ", ".join(f"{number:,} {outcome}" for outcome, number in outcomes.most_common())
    seconds = time.monotonic() - started
    print(f"{given.runs} runs in {seconds:.0f} s, {sum(outcomes.values()):,} verdicts: {counted}; {wrong} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
