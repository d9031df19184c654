"""How long `pytest-rssguard explain` takes to read another process, and how much memory that takes.

Starts a fresh process with so many chunks of malloc(1056), every other one freed (1,000,000 in 1 GiB), and a Python
process of 200 MB, and reads each from a fresh reader. Goals: 1,000,000 chunks in 1.5 s and 64 MiB of reader memory (its
peak, interpreter included); the Python process in 0.3 s. The fewer chunks show that the time grows with their number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

_TAKES: Final = 5
_COUNTS: Final = (10_000, 100_000, 1_000_000)
_PATTERNS: Final = ("live", "half")
_SECONDS: Final = {1_000_000: 1.5, 0: 0.3}
_MEMORY: Final = 64 << 20
_HEAP: Final = """
import sys
sys.path.insert(0, {folder!r})
import ctypes
import census
table = census._fill(ctypes.PyDLL(None), {count}, {pattern!r})
print("ready", flush=True)
sys.stdin.read()
"""
_PYTHON: Final = """
import sys
kept = [{str(i): [i, str(i), (i, i + 1)]} for i in range(300_000)]
gone = [bytearray(2000) for i in range(20_000)]
some = gone[::3]
del gone
print("ready", flush=True)
sys.stdin.read()
"""


def read(pid: int) -> dict[str, Any]:
    """Read the process as the command does; return what that took and what was seen."""
    from pytest_rssguard.external import read_process  # noqa: PLC0415 - its import is not what is measured
    from pytest_rssguard.portrait import Portrait, lines, to_json  # noqa: PLC0415 - as above

    started, used = time.perf_counter(), time.process_time()
    snapshot, census = read_process(pid, draw=True)
    seconds = time.perf_counter() - started
    portrait = Portrait(pid=pid, name="target", snapshot=snapshot, census=census, seconds=seconds)
    list(lines(portrait))
    to_json(portrait)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return {
        "seconds": seconds,
        "cpu": time.process_time() - used,
        "peak": 1024 * int(status.split("VmHWM:")[1].split()[0]),
        "rss": snapshot.rss,
        "blocks": census.live_blocks,
        "pools": census.pools.live_blocks if census.pools else 0,
        "problems": census.problems,
    }


def report(name: str, source: str, goal: float | None) -> bool:
    """Print one case; return whether it meets its goals."""
    target = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        if target.stdout is None or not target.stdout.readline():
            raise SystemExit(f"{name}: the process to read ended")
        command = [sys.executable, str(Path(__file__).resolve()), "--read", str(target.pid)]
        found = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(_TAKES)]
    finally:
        target.kill()
        target.communicate()
    times = [each["seconds"] for each in found]
    peak, last = max(each["peak"] for each in found), found[-1]
    print(
        f"{name}: RSS {last['rss'] / 2**20:,.0f} MiB, {last['blocks']:,} blocks of malloc, {last['pools']:,} of pymalloc\n"
        f"  read: median of {len(times)} {median(times):.3f} s ({', '.join(f'{each:.3f}' for each in times)}), processor "
        f"{median(each['cpu'] for each in found):.3f} s; reader's peak RSS {peak / 2**20:.1f} MiB"
    )
    for problem in sorted({problem for each in found for problem in each["problems"]}):
        print(f"  does not close: {problem}")
    quick = goal is None or median(times) <= goal
    small = peak <= _MEMORY
    time_goal = f"<= {goal} s: {'met' if quick else 'MISSED'}; " if goal else ""
    print(f"  goals: {time_goal}<= 64 MiB: {'met' if small else 'MISSED'}", flush=True)
    return quick and small and not any(each["problems"] for each in found)


def main() -> int:
    """Read every case and print it; with --check answer 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description="The time and memory that reading another process takes.")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--read", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read)))
        return 0
    folder = str(Path(__file__).resolve().parent)
    print(f"load average {', '.join(f'{each:.1f}' for each in os.getloadavg())}; {os.cpu_count()} processors")
    met = [
        report(
            f"{count:,} chunks, {'all live' if pattern == 'live' else 'every other freed'}",
            _HEAP.format(folder=folder, count=count, pattern=pattern),
            _SECONDS.get(count),
        )
        for pattern in _PATTERNS
        for count in _COUNTS
    ]
    met.append(report("Python, 200 MB", _PYTHON, _SECONDS[0]))
    return int(options.check and not all(met))


if __name__ == "__main__":
    sys.exit(main())
