"""Judge suites that nobody here wrote, at 4 MB a test, and time what measuring every test costs.

Makes a virtual environment with the suites' wheels (or uses `--venv`), prints every name and version, runs each suite
once with `--rssguard-judge-all --rssguard-retained=warn`, and prints every verdict that says more than "returned" or
"retained", with its message. Then times `numpy.lib` without the plugin's options and with `--rssguard-all`, in turns.
No part of the test run: minutes of work. Pin it to one core: `taskset -c 1 python benchmarks/real_suites.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peers import children_cpu

SUITES: Final = ("numpy.lib", "numpy.ma", "pandas.tests.io.json", "pandas.tests.reshape", "pyarrow.tests.test_pandas")
WHEELS: Final = ("numpy", "pandas", "pyarrow", "hypothesis", "pytest")
_ACCUSED: Final = {"leaked", "grew", "unmeasurable"}
_JUDGE: Final = ("--rssguard-judge-all", "--rssguard-retained=warn", "--rssguard-tolerance=4MB")
_TIMED: Final = "numpy.lib"


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with the wheels and this checkout; return its interpreter."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    checkout = Path(__file__).resolve().parent.parent
    subprocess.run([str(python), "-m", "pip", "install", "-q", *WHEELS, str(checkout)], check=True)
    return python


def versions(python: Path) -> str:
    """Return the name and version of everything that is installed, and of the interpreter."""
    script = (
        "import importlib.metadata as m, platform; print(platform.python_version(), platform.libc_ver(), platform.release());"
        "print(*sorted({f'{d.name}=={d.version}' for d in m.distributions()}))"
    )
    return subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True).stdout


def run(python: Path, suite: str, *options: str) -> tuple[float, float, str]:
    """Run one suite from its wheel; return (seconds, CPU seconds, the last line of pytest's output)."""
    with tempfile.TemporaryDirectory() as folder:
        started, used = time.perf_counter(), children_cpu()
        done = subprocess.run(
            [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "--pyargs", suite, *options],
            cwd=folder, capture_output=True, text=True, check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        )  # fmt: skip
        seconds, cpu = time.perf_counter() - started, children_cpu() - used
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    return seconds, cpu, lines[-1]


def judge(python: Path, suite: str) -> list[dict[str, Any]]:
    """Judge every test of `suite`; print what was found, and return the records of what is not returned or retained."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        seconds, _, last = run(python, suite, *_JUDGE, f"--rssguard-json={report}")
        if not report.exists():
            print(f"{suite}: no report: {last}", flush=True)
            return []
        records = json.loads(report.read_text(encoding="utf-8"))["tests"]
    outcomes = Counter(str(record["outcome"]) for record in records)
    print(f"{suite}: {len(records)} judged in {seconds:.1f} s: {dict(outcomes)}; pytest: {last}", flush=True)
    accused = [record for record in records if record["outcome"] in _ACCUSED]
    for record in accused:
        print(f"  {record['outcome']}: {record['nodeid']}")
        for key in ("growth", "held", "retained", "allocated", "collected"):
            print(f"    {key} {record.get(key)}")
        print(f"    accounts { ({name: size for name, size in record['accounts'].items() if size}) }")
        print("    " + str(record.get("text") or record.get("message") or "").replace("\n", "\n    "), flush=True)
    return accused


def compare(python: Path, repeats: int) -> None:
    """Time the suite without and with `--rssguard-all`, in turns, so that a slow minute of the machine hits both."""
    runs: dict[str, list[tuple[float, float]]] = {"plain": [], "all": []}
    for _ in range(repeats):
        for name, options in (("plain", ("-p", "no:rssguard")), ("all", ("--rssguard-all",))):
            seconds, cpu, last = run(python, _TIMED, *options)
            runs[name].append((seconds, cpu))
            print(f"  {_TIMED} {name}: {seconds:.2f} s, {cpu:.2f} s of CPU ({last})", flush=True)
    for at, what in enumerate(("wall", "CPU")):
        ratios = [measured[at] / plain[at] for plain, measured in zip(runs["plain"], runs["all"], strict=True)]
        print(
            f"{_TIMED}: --rssguard-all takes {statistics.median(ratios):.3f} x plain pytest, {what} time (median of "
            f"{repeats} pairs, {min(ratios):.3f} to {max(ratios):.3f})"
        )


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", default=SUITES, help="pytest --pyargs names")
    parser.add_argument("--venv", type=Path, help="an environment that has the wheels and the plugin: nothing is installed")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of timed runs; 0 leaves them out (3)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = given.venv / "bin" / "python" if given.venv else make_environment(Path(folder, "venv"))
        print(f"cores {sorted(os.sched_getaffinity(0))} of {os.cpu_count()}")
        print(versions(python), flush=True)
        accused = [record for suite in given.suites for record in judge(python, suite)]
        print(f"accused: {len(accused)}", flush=True)
        if given.repeats:
            compare(python, given.repeats)


if __name__ == "__main__":
    main()
