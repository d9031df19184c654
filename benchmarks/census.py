"""How long a census takes, and what it leaves behind in the process that takes it.

Fills the heap of a fresh process with chunks of malloc(1056), 1,000,000 of them in 1 GiB, all live or every other one
freed, and takes the census of itself. Goals: 1.5 s (median of 5), and the process's own RSS and mallinfo2 within 64 KiB
of what they were. Smaller heaps show that the time grows with the number of chunks.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from pytest_rssguard.probe import LinuxProbe
from pytest_rssguard.self_census import SelfCensus

SECONDS: Final = 1.5
CHANGE: Final = 64 << 10
REQUEST: Final = 1056
_TAKES: Final = 5
_COUNTS: Final = (10_000, 100_000, 1_000_000)
_PATTERNS: Final = ("live", "half")
_FIELDS: Final = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
_BYTES: Final = ("arena", "hblkhd", "fsmblks", "uordblks", "fordblks")


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)


def _fill(libc: ctypes.PyDLL, count: int, pattern: str) -> mmap.mmap:
    """Allocate the chunks and free their share; return where they are, outside the heap."""
    malloc, free = libc["malloc"], libc["free"]
    malloc.restype = ctypes.c_void_p
    malloc.argtypes = [ctypes.c_size_t]
    free.restype = None
    free.argtypes = [ctypes.c_void_p]
    table = mmap.mmap(-1, 8 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with memoryview(table) as raw, raw.cast("Q") as addresses:
        for index in range(count):
            addresses[index] = malloc(REQUEST)
        if pattern == "half":
            for index in range(0, count, 2):
                free(addresses[index])
    return table


def _rss() -> int:
    """Return this process's RSS: statm is exact from Linux 6.12.107 on, smaps_rollup everywhere."""
    fd = os.open("/proc/self/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.pread(fd, 400, 0)
    finally:
        os.close(fd)
    return 1024 * int(text[text.index(b"Rss:") + 4 : text.index(b" kB")])


def child(count: int, pattern: str) -> dict[str, Any]:
    """Take censuses of this process; return their times and what each changed."""
    libc = ctypes.PyDLL(None)
    mallinfo2 = libc["mallinfo2"]
    mallinfo2.restype = _Mallinfo2
    census = SelfCensus(LinuxProbe())
    table = _fill(libc, count, pattern)
    found: dict[str, Any] = {"seconds": [], "walk": [], "rss": [], "malloc": [], "problems": []}
    census.make_ready()
    found["resident"] = _rss()
    for _ in range(_TAKES):
        before, old = _rss(), mallinfo2()
        started = time.perf_counter()
        taken = census.take()
        seconds = time.perf_counter() - started
        after, new = _rss(), mallinfo2()  # with the census still held
        found["seconds"].append(seconds)
        found["walk"].append(taken.seconds)
        found["rss"].append(after - before)
        found["malloc"].append({name: getattr(new, name) - getattr(old, name) for name in _BYTES})
        found["problems"] += taken.problems
        found["blocks"] = sum(heap.live_blocks for heap in taken.heaps)
        found["free"] = sum(heap.free for heap in taken.heaps)
    table.close()
    return found


def report(count: int, pattern: str, *, judged: bool) -> bool:
    """Print one case; return whether it meets the goals, if it is judged."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", pattern, "--chunks", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    times = found["seconds"]
    rss = max(found["rss"], key=abs)
    malloc = {name: max((each[name] for each in found["malloc"]), key=abs) for name in _BYTES}
    held = "all live" if pattern == "live" else "every other freed"
    print(
        f"{count:>9,} chunks, {held}: RSS {found['resident'] / 2**20:,.0f} MiB, "
        f"{found['blocks']:,} live blocks and {found['free'] / 2**20:,.0f} MiB free seen"
    )
    print(
        f"  take(): median of {len(times)} {median(times):.3f} s ({', '.join(f'{each:.3f}' for each in times)}), "
        f"of that in the walk {median(found['walk']):.3f} s; {median(times) / count * 1e6:.2f} us a chunk"
    )
    print(f"  own RSS: {', '.join(f'{each / 1024:+.0f}' for each in found['rss'])} KiB")
    print(f"  own mallinfo2, largest change in bytes: {', '.join(f'{k} {v:+,}' for k, v in malloc.items())}")
    for problem in sorted(set(found["problems"])):
        print(f"  does not close: {problem}")
    unchanged = abs(rss) <= CHANGE and all(abs(size) <= CHANGE for size in malloc.values())
    quick = bool(median(times) <= SECONDS)
    if judged:
        print(
            f"  goals: median <= {SECONDS} s: {'met' if quick else 'MISSED'}; "
            f"own change <= 64 KiB: {'met' if unchanged else 'MISSED'}; "
            f"closes: {'no' if found['problems'] else 'yes'}",
            flush=True,
        )
    return not judged or (quick and unchanged and not found["problems"])


def main() -> int:
    """Run every case in a fresh process, print it, and answer 1 with --check where a goal is missed."""
    parser = argparse.ArgumentParser(description="The time of a census, and what it changes in its own process.")
    parser.add_argument("--chunks", type=int, default=0, help="only this many chunks (default: 10,000, 100,000, 1,000,000)")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed at the most chunks")
    parser.add_argument("--child", choices=_PATTERNS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.chunks, options.child)))
        return 0
    counts = (options.chunks,) if options.chunks else _COUNTS
    met = [report(count, pattern, judged=count == max(counts)) for pattern in _PATTERNS for count in counts]
    return int(options.check and not all(met))


if __name__ == "__main__":
    sys.exit(main())
