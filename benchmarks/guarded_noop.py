"""What a guarded test that does nothing costs, against the floor of its unavoidable parts.

The floor is measured in the same process, in turn with the guarded no-op, and makes the same kernel and library calls
without anything around them: two raw readings of smaps into touched shared memory, two mallinfo2, two pymalloc
statistics, the guard's own garbage collections, one malloc_trim(0). Goal: at most 1.3 times the floor, in a bare process
and in one with 500,000 live containers, called directly and through pytest's hook.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from pytest_rssguard.guard import Guard, collect_garbage, collect_young
from pytest_rssguard.model import Limit

GOAL: Final = 1.3
TOLERANCE: Final = 4 << 20
WARMUP: Final = 5
_STATISTICS: Final = 16384
_SMAPS: Final = 1 << 19


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple((str(number), ctypes.c_size_t) for number in range(10))


class Floor:
    """The unavoidable parts of one guarded test, and nothing else."""

    def __init__(self) -> None:
        libc = ctypes.PyDLL(None)
        self._mallinfo2 = libc["mallinfo2"]
        self._mallinfo2.restype = _Mallinfo2
        self._trim = libc["malloc_trim"]
        self._trim.argtypes = [ctypes.c_size_t]
        fmemopen = libc["fmemopen"]
        fmemopen.restype = ctypes.c_void_p
        fmemopen.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        self._statistics = libc["_PyObject_DebugMallocStats"]
        self._flush = libc["fflush"]
        self._rewind = libc["rewind"]
        for function in (self._statistics, self._flush, self._rewind):
            function.restype = None
            function.argtypes = [ctypes.c_void_p]
        self._text = _touched(_STATISTICS + mmap.PAGESIZE)
        self._file = fmemopen(ctypes.addressof(ctypes.c_char.from_buffer(self._text)), _STATISTICS, b"w")
        self._smaps = memoryview(_touched(_SMAPS))

    def _read(self) -> None:
        self._mallinfo2()
        self._rewind(self._file)
        self._statistics(self._file)
        self._flush(self._file)
        view, done = self._smaps, 0
        fd = os.open("/proc/self/smaps", os.O_RDONLY | os.O_CLOEXEC)
        while got := os.preadv(fd, [view[done:]], done):
            done += got
        os.close(fd)

    def __call__(self) -> None:
        """Do all of it once."""
        collect_garbage()
        self._trim(0)
        self._read()
        collect_young(alone=True)
        self._read()


def _touched(size: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    buffer[:] = bytes(size)
    return buffer


class Guarded:
    """One guarded test body that does nothing, without pytest."""

    def __init__(self) -> None:
        self.guard = Guard()
        self._limit = Limit(tolerance=TOLERANCE)

    def __call__(self) -> None:
        """Measure nothing."""
        self.guard.end(self.guard.begin(self._limit))


def _timed(call: Floor | Guarded) -> int:
    started = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - started


def _collections(call: Floor | Guarded) -> list[int]:
    """Return the generations that `call` collects, in order."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    try:
        call()
    finally:
        gc.callbacks.remove(note)
    return found


def direct(rounds: int) -> dict[str, Any]:
    """Return the times of the floor and of the guarded no-op in turn, in nanoseconds, and what each collects."""
    floor, guarded = Floor(), Guarded()
    if guarded.guard.blind:
        raise SystemExit(f"this process cannot be measured: {guarded.guard.blind}")
    for _ in range(WARMUP):
        floor()
        guarded()
    calls: tuple[Floor | Guarded, Floor | Guarded] = (floor, guarded)
    times: dict[str, list[int]] = {"floor": [], "guarded": []}
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            times["guarded" if which else "floor"].append(_timed(calls[which]))
    return {**times, "collections": [_collections(floor), _collections(guarded)]}


_TESTS: Final = """
import pytest

marks = [(), pytest.mark.rss_returns("4MiB")]

@pytest.mark.parametrize("number", [pytest.param(n, marks=marks[n % 2]) for n in range({tests})])
def test_nothing(number):
    pass
"""


def through_hook(rounds: int) -> dict[str, Any]:
    """Return the times of pytest's hook for guarded and unguarded tests and of the floor, in nanoseconds. Imports pytest: direct() must not."""
    import pytest
    from hook_timer import HookTimer

    floor = Floor()
    timer = HookTimer(lambda: _timed(floor))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test_nothing.py")
        path.write_text(_TESTS.format(tests=2 * (rounds + WARMUP)), encoding="utf-8")
        arguments = [str(path), "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", folder, "-c", os.devnull]
        status = pytest.main(arguments, plugins=[timer])
    if status != pytest.ExitCode.OK:
        raise SystemExit(f"the guarded tests did not pass: {status}")
    return {name: times[WARMUP:] for name, times in timer.times.items()}


def _child(way: str, containers: int, rounds: int) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        command = [sys.executable, __file__, "--child", way, "--containers", str(containers), "--rounds", str(rounds)]
        subprocess.run([*command, "--answer", answer.name], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(Path(answer.name).read_text(encoding="utf-8"))
        return found


def _microseconds(times: list[int]) -> str:
    low, _, high = quantiles(times, n=4)
    return f"{median(times) / 1e3:8,.0f} us  (min {min(times) / 1e3:,.0f}, quartiles {low / 1e3:,.0f}-{high / 1e3:,.0f})"


def report(way: str, containers: int, found: dict[str, Any]) -> bool:
    """Print one case; return whether it meets the goal."""
    floor, guarded = found["floor"], found["guarded"]
    ratios = [above / below for above, below in zip(guarded, floor, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    ratio = median(guarded) / median(floor)
    print(f"{way}, {containers:,} live containers, {len(floor)} pairs")
    print(f"  floor          {_microseconds(floor)}")
    print(f"  guarded no-op  {_microseconds(guarded)}")
    if "plain" in found:
        print(f"  unguarded hook {_microseconds(found['plain'])}  (in the guarded time, not in the floor)")
    if "collections" in found:
        print(f"  generations collected: floor {found['collections'][0]}, guarded {found['collections'][1]}")
    met = bool(ratio <= GOAL)
    print(
        f"  ratio of medians {ratio:.3f}  (of minima {min(guarded) / min(floor):.3f}, "
        f"of pairs: quartiles {low:.3f}-{high:.3f}); goal <= {GOAL}: {'met' if met else 'MISSED'}"
    )
    return met


def main() -> int:
    """Run every case in a process of its own, print it, and answer 1 with --check where a goal is missed."""
    parser = argparse.ArgumentParser(description="The cost of a guarded no-op test over its floor.")
    parser.add_argument("--rounds", type=int, default=200, help="pairs in each case (default 200)")
    parser.add_argument("--containers", type=int, default=500_000, help="live containers of the large process")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the goal is missed")
    parser.add_argument("--child", choices=("direct", "hook"), help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        live: list[list[int]] = [[] for _ in range(options.containers)]
        found = direct(options.rounds) if options.child == "direct" else through_hook(options.rounds)
        found["live"] = len(live)
        options.answer.write_text(json.dumps(found), encoding="utf-8")
        return 0
    met = [
        report(name, containers, _child(way, containers, options.rounds))
        for way, name in (("direct", "Guard.begin + Guard.end"), ("hook", "pytest_runtest_call"))
        for containers in (0, options.containers)
    ]
    return int(options.check and not all(met))


if __name__ == "__main__":
    sys.exit(main())
