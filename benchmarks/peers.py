"""The guard beside its peers on the same work: pytest-memray, psleak, tracemalloc and a naive RSS fixture.

(a) 2,000 trivial tests, (b) a body that allocates much, (c) time and calls until a leak of a few bytes a call is named,
(d) false alarms of clean bodies, (e) the answer to leaked, trimmable, pinned and masked memory. Every tool runs in a
pytest process of its own, through the interpreter given by `--python`, which has the dependency group `peers` and this
package. The plugins that a run does not use are switched off. Prints Markdown.
    python -m venv peers && peers/bin/pip install . --group peers
    taskset -c 1 python benchmarks/peers.py --python peers/bin/python
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WORK: Final = Path(__file__).with_name("peers_work")
_OFF: Final = ("-p", "no:rssguard", "-p", "no:memray", "-p", "no:pytest_memray")
_RSSGUARD: Final = ("-p", "no:memray", "-p", "no:pytest_memray")
_MEMRAY: Final = ("-p", "no:rssguard", "--memray")
#: Tools by the name that the test files know them by: the options of pytest, and what else the environment needs.
TOOLS: Final[dict[str, tuple[str, ...]]] = {
    "plain": _OFF,
    "rssguard, installed only": _RSSGUARD,
    "rssguard --rssguard-all": (*_RSSGUARD, "--rssguard-all"),
    "rssguard, every test marked": _RSSGUARD,
    "pytest-memray": _MEMRAY,
    "tracemalloc": _OFF,
    "naive RSS": _OFF,
    "psleak": _OFF,
}
_FEW: Final = ("rssguard, every test marked", "psleak", "pytest-memray", "tracemalloc", "naive RSS")
#: How the line of a failure begins that says what the tool found.
_FIRST_WORDS: Final = (
    r"[\d.]+ [KMG]?i?B (?:leaked|freed)", r"Rss\w+: ", r"psleak\.\w+: ", "Test is allocating", "Test was", "Failed: ",
    "AssertionError: ", "List of leaked",
)  # fmt: skip
_LEAKS: Final = ("native_2048", "native_16", "python_64")
_PATTERNS: Final = ("leaked", "trimmable", "pinned", "masked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pytest process: wall and CPU time in seconds, outcomes by kind, and what it printed."""

    seconds: float
    cpu: float
    outcomes: Counter[str]
    text: str
    calls: int


def run(python: Path, tool: str, file: str, **environment: str) -> Run:
    """Run one of the test files with one tool."""
    compiled = Path(tempfile.gettempdir(), f"peers-compiled-{os.getpid()}")
    with tempfile.TemporaryDirectory() as folder:
        calls = Path(folder, "calls")
        env = {
            **_environment(compiled), "PEERS_TOOL": tool, "PEERS_CALLS": str(calls), "COLUMNS": "160", **environment,
        }  # fmt: skip
        if tool == "psleak":
            env["PYTHONMALLOC"] = "malloc"
        command = [
            str(python), "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-W", "ignore", "-c", os.devnull,
            f"--rootdir={folder}", *TOOLS[tool], str(_WORK / file),
        ]  # fmt: skip
        started, used = time.perf_counter(), children_cpu()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=folder, timeout=900)
        seconds, cpu = time.perf_counter() - started, children_cpu() - used
        text = done.stdout + done.stderr
        counted = int(calls.read_text(encoding="ascii")) if calls.exists() else 0
    outcomes = Counter(re.findall(r"^(PASSED|FAILED|SKIPPED|ERROR)\b", text, re.MULTILINE))
    in_teardown = outcomes.pop("ERROR", 0)  # what a fixture finds after its test has passed: one test, and it failed
    outcomes["FAILED"] += in_teardown
    outcomes["PASSED"] = max(0, outcomes["PASSED"] - in_teardown)
    return Run(seconds=seconds, cpu=cpu, outcomes=+outcomes, text=text, calls=counted)


def _environment(compiled: Path) -> dict[str, str]:
    """Return this process's environment, with modules compiled once, into `compiled`, as on a user's machine.

    With PYTHONDONTWRITEBYTECODE pytest rewrites and compiles each plugin anew in every run, 0.1 s of this one.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(compiled)}


def children_cpu() -> float:
    """Return user and system seconds of all processes that were waited for: a loaded machine moves them less."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def time_suite(python: Path, title: str, file: str, tools: Sequence[str], repeats: int, **environment: str) -> None:
    """Print wall times beside plain pytest, in turns, so that a slow minute of the machine hits all."""
    runs: dict[str, list[Run]] = {tool: [] for tool in tools}
    for _ in range(repeats):
        for tool in tools:
            runs[tool].append(run(python, tool, file, **environment))
    print(
        f"\n{title}, median of {repeats} (least to most)\n\n"
        "| tool | seconds | CPU seconds | x plain, wall | x plain, CPU | not passed |\n|---|---|---|---|---|---|"
    )
    for tool, each in runs.items():
        plain = runs["plain"]
        wall = [here.seconds / there.seconds for here, there in zip(each, plain, strict=True)]
        cpu = [here.cpu / there.cpu for here, there in zip(each, plain, strict=True)]
        outcomes = each[-1].outcomes
        print(
            f"| {tool} | {_spread([one.seconds for one in each])} | {_spread([one.cpu for one in each])} "
            f"| {_spread(wall)} | {_spread(cpu)} | {sum(outcomes.values()) - outcomes['PASSED']} |", flush=True
        )  # fmt: skip


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def time_verdicts(python: Path, repeats: int) -> None:
    """Print how long each tool takes to name a leak, with the start of pytest in it, and whether its clean twin passes."""
    print(
        f"\n(c) verdict on a leak by call, one test in a process of its own, median of {repeats} (least to most)\n\n"
        "| tool | leak | with the leak | its clean twin | calls of the body | seconds | CPU seconds | CPU over plain pytest |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    asked = [
        (f"{tool}{f', rounds={rounds}' if rounds else ''}", leak, tool,
         {"PEERS_TOLERANCE": "0", "PEERS_ROUNDS": rounds} if rounds else {"PEERS_TOLERANCE": "64KB"})
        for tool, rounds in [(_FEW[0], "5"), (_FEW[0], "3"), *((tool, "") for tool in _FEW[1:])]
        for leak in _LEAKS
    ]  # fmt: skip
    found: dict[tuple[str, str], list[Run]] = {(name, leak): [] for name, leak, _, _ in asked}
    plain = []
    for _ in range(repeats):  # in turns, so that a slow minute of the machine hits all
        plain.append(run(python, "plain", "leak.py", PEERS_LEAK="clean").cpu)
        for name, leak, tool, settings in asked:
            found[name, leak].append(run(python, tool, "leak.py", PEERS_LEAK=leak, **settings))
    for name, leak, tool, settings in asked:
        runs = found[name, leak]
        clean = run(python, tool, "leak.py", PEERS_LEAK=f"clean_{leak}", **settings)
        cpu = [each.cpu for each in runs]
        print(
            f"| {name} | {leak.replace('_', ', ')} B | {_counted([each.outcomes for each in runs])} "
            f"| {_counted([clean.outcomes])} | {max(each.calls for each in runs):,} "
            f"| {_spread([each.seconds for each in runs])} | {_spread(cpu)} "
            f"| {statistics.median(cpu) - statistics.median(plain):.2f} |",
            flush=True,
        )


def _counted(outcomes: Sequence[Counter[str]]) -> str:
    total: Counter[str] = sum(outcomes, Counter())
    return ", ".join(f"{count} {kind.lower()}" for kind, count in total.items()) or "no outcome"


def count_false_alarms(python: Path, runs: int, psleak_runs: int) -> None:
    """Print how often each tool fails a body that keeps nothing."""
    print(
        "\n(d) false alarms, 10 clean bodies: rssguard at tolerance 0 with 5 rounds and at 64 KiB, the others at 64 KiB\n\n"
        "| tool | runs | alarms | bodies | seconds |\n|---|---|---|---|---|"
    )
    for tool in ("rssguard, every test marked", "psleak", "pytest-memray", "tracemalloc", "naive RSS"):
        for tolerance in ("0", "64KB") if tool.startswith("rssguard") else ("64KB",):
            count = psleak_runs if tool == "psleak" else runs
            if not count:
                continue
            done = run(python, tool, "clean.py", PEERS_RUNS=str(count), PEERS_TOLERANCE=tolerance)
            bodies = sorted(set(re.findall(r"^(?:FAILED|ERROR) .*test_clean\[\d+-(\w+)\]", done.text, re.MULTILINE)))
            total = sum(done.outcomes.values())
            print(
                f"| {tool}{f', tolerance {tolerance}' if tool.startswith('rssguard') else ''} | {total} "
                f"| {done.outcomes['FAILED']} | {', '.join(bodies) or '-'} "
                f"| {done.seconds:.1f} |", flush=True
            )  # fmt: skip


def ask(python: Path) -> None:
    """Print what each tool answers to memory that is leaked, trimmable, pinned or masked."""
    print("\n(e) the answer, each pattern in a process of its own\n\n| tool | pattern | answer |\n|---|---|---|")
    for tool in _FEW:
        for pattern in _PATTERNS:
            done = run(python, tool, "pattern.py", PEERS_PATTERN=pattern)
            print(f"| {tool} | {pattern} | {_answer(done)} |", flush=True)


def _answer(done: Run) -> str:
    if done.outcomes["PASSED"]:
        return "passed"
    if done.outcomes["SKIPPED"]:
        return "skipped"
    found = re.search(rf"^(?:E +)?((?:{'|'.join(_FIRST_WORDS)})[^\n]*)", done.text, re.MULTILINE)
    said = found[1] if found else done.text.strip().splitlines()[-1]
    return "failed: " + re.sub(r"/\S+/", "", said)[:150].replace("|", "/")


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="an interpreter that has the peers")
    parser.add_argument("--parts", default="abcde")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=50, help="runs of each clean body (50)")
    parser.add_argument(
        "--psleak-runs",
        type=int,
        default=50,
        help="the same for psleak, which calls each body thousands of times; 0 leaves it out (50)",
    )
    given = parser.parse_args()
    python = given.python.absolute()
    script = (
        "import importlib.metadata as m, platform; print(platform.python_version(), platform.libc_ver(), platform.release(),"
        "*[f'{n} {m.version(n)}' for n in ('pytest', 'pytest-rssguard', 'pytest-memray', 'memray', 'psleak', 'psutil')])"
    )
    print(subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True).stdout)
    print(f"cores {sorted(os.sched_getaffinity(0))} of {os.cpu_count()}", flush=True)
    for tool in TOOLS:
        run(python, tool, "leak.py", PEERS_LEAK="clean")  # compiles
    if "a" in given.parts:
        time_suite(python, "(a) 2,000 trivial tests", "trivial.py", list(TOOLS)[:-1], given.repeats)
    if "b" in given.parts:
        for tests, objects in ((20, 100_000), (5, 4_000_000), (1, 20_000_000)):
            time_suite(
                python, f"(b) {tests} tests that allocate {objects:,} objects each", "heavy.py", list(TOOLS)[:-1],
                given.repeats, PEERS_TESTS=str(tests), PEERS_OBJECTS=str(objects),
            )  # fmt: skip
    if "c" in given.parts:
        time_verdicts(python, given.repeats)
    if "e" in given.parts:
        ask(python)
    if "d" in given.parts:
        count_false_alarms(python, given.runs, given.psleak_runs)


if __name__ == "__main__":
    main()
