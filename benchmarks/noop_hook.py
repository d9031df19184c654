"""Started by guarded_noop.py: run pytest on guarded and unguarded no-op tests and time pytest_runtest_call from outside."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from benchmarks.floor import Floor, timed

WARMUP: Final = 5
_TESTS: Final = """
import pytest

marks = [(), pytest.mark.rss_returns("4MiB")]

@pytest.mark.parametrize("number", [pytest.param(n, marks=marks[n % 2]) for n in range({tests})])
def test_nothing(number):
    pass
"""


class HookTimer:
    """Times the whole hook for every test, in nanoseconds, and before or after each guarded one the floor."""

    def __init__(self) -> None:
        self._floor = Floor()
        self.times: dict[str, list[int]] = {"floor": [], "guarded": [], "plain": []}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Stand outside every other wrapper."""
        guarded = item.get_closest_marker("rss_returns") is not None
        before = guarded and len(self.times["guarded"]) % 2
        if before:
            self.times["floor"].append(timed(self._floor))
        started = time.perf_counter_ns()
        value = yield
        self.times["guarded" if guarded else "plain"].append(time.perf_counter_ns() - started)
        if guarded and not before:
            self.times["floor"].append(timed(self._floor))
        return value


def main(containers: int, rounds: int, answer: Path) -> None:
    """Write one line for each series to `answer`: its name and its numbers."""
    live: list[list[int]] = [[] for _ in range(containers)]
    timer = HookTimer()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test_nothing.py")
        path.write_text(_TESTS.format(tests=2 * (rounds + WARMUP)), encoding="utf-8")
        arguments = [str(path), "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", folder, "-c", os.devnull]
        status = pytest.main(arguments, plugins=[timer])
    if status != pytest.ExitCode.OK:
        raise SystemExit(f"the guarded tests did not pass: {status}")
    lines = [f"live {len(live)}", *(f"{name} {' '.join(map(str, t[WARMUP:]))}" for name, t in timer.times.items())]
    answer.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
