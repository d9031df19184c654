"""Measure what reading another process takes: time, and memory of the reader.

Cases: C-like heaps of 10,000, 100,000 and 1,000,000 chunks (made through ctypes in a child: every other one freed), and
a Python child of some 200 MB. Each reading is made in a fresh process, whose peak RSS over that of the same process
reading an empty child is the reader's memory. With `--check` it exits with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any, Final

_HEAP: Final = """
import ctypes, mmap, sys
libc = ctypes.PyDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.free.restype, count = None, int(sys.argv[1])
table = memoryview(mmap.mmap(-1, 8 * max(1, count))).cast("Q")
for i in range(count):
    table[i] = libc.malloc(1056)
    ctypes.memset(table[i], 1, 1056)
for i in range(0, count, 2):
    libc.free(table[i])
"""
_PYTHON: Final = """
kept = [(str(i), [i]) for i in range(800_000)]
del kept[::7]
"""
_WAIT: Final = "\nimport os; os.write(1, b'r'); os.read(0, 1)\n"
_READ: Final = """
import json, resource, sys
from pytest_rssguard.external import read_process
from pytest_rssguard.ledger import totals
import time
started, cpu = time.perf_counter(), time.process_time()
snapshot, census = read_process(int(sys.argv[1]), draw=True)
seconds = time.perf_counter() - started
cpu = time.process_time() - cpu
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "rss": snapshot.rss, "problems": census.problems, "sum": sum(size or 0 for size in totals(snapshot, census).values())}))
"""


def measure(program: str, *arguments: str) -> list[dict[str, Any]]:
    """Return what five readings of a child that runs `program` took."""
    child = subprocess.Popen([sys.executable, "-c", program + _WAIT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None  # noqa: S101 - for mypy
    child.stdout.read(1)
    time.sleep(0.05)  # until it is at rest in read(2)
    command = [sys.executable, "-c", _READ, str(child.pid)]
    done = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(5)]
    child.communicate(b"x")
    return done


def main() -> int:
    """Print every case; answer 1 with --check where a goal is missed."""
    parser = argparse.ArgumentParser(description="The time and the memory that reading another process takes.")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    check = parser.parse_args().check
    empty = min(each["peak"] for each in measure(_HEAP, "0"))
    cases = [(f"{count:,} chunks", _HEAP, (str(count),), 1.5) for count in (10_000, 100_000, 1_000_000)]
    missed = False
    for name, program, arguments, goal in [*cases, ("Python process", _PYTHON, (), 0.3)]:
        found = measure(program, *arguments)
        seconds = sorted(each["seconds"] for each in found)
        memory = max(each["peak"] for each in found) - empty
        sound = all(not each["problems"] and each["sum"] == each["rss"] for each in found)
        good = seconds[2] <= goal and memory <= 64 << 20 and sound
        missed = missed or not good
        print(
            f"{name}, RSS {found[0]['rss'] / 2**20:,.0f} MiB: median {seconds[2]:.3f} s ({seconds[0]:.3f} to {seconds[4]:.3f}),"
            f" {sorted(each['cpu'] for each in found)[2]:.3f} s of CPU;"
            f" reader +{memory / 2**20:.1f} MiB; closes: {'yes' if sound else 'no'};"
            f" goal {goal} s and 64 MiB: {'met' if good else 'MISSED'}",
            flush=True,
        )
    return int(check and missed)


if __name__ == "__main__":
    sys.exit(main())
