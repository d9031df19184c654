"""Run every plant of the canary in a fresh process, and one pair of tests through pytest itself; put it into words."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_rssguard.canary import Answer, Check, Finding, assess, bounds, parse_finding
from pytest_rssguard.capabilities import Capability, can_divide, probe_capabilities
from pytest_rssguard.environment import environment
from pytest_rssguard.planting import PLANTS, Plant
from pytest_rssguard.units import format_size
from pytest_rssguard.version import VERSION

_WIDTH: Final = 80
#: A plant takes a quarter of a second; a machine a hundred times slower is still heard.
_PATIENCE: Final = 120
_TESTS: Final = """
import ctypes
import pytest

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]


@pytest.mark.rss_returns(tolerance="4MB")
def test_clean():
    bytearray(16 << 20)


@pytest.mark.rss_returns(tolerance="4MB")
def test_leak():
    ctypes.memset(LIBC.malloc(16 << 20), 1, 16 << 20)
"""
_REQUIRED: Final = {"test_clean": "returned", "test_leak": "leaked"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Whether pytest itself, with the plugin as it is installed here, fails the leaking test and passes the clean one."""

    answer: Answer
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All that the doctor found."""

    environment: dict[str, Any]
    capabilities: tuple[Capability, ...]
    checks: tuple[Check, ...]
    gate: Gate

    @property
    def healthy(self) -> bool:
        """Whether every planted pattern was recognised: False is exit code 1."""
        return self.gate.answer.passes and all(check.answer.passes for check in self.checks)


def diagnose() -> Diagnosis:
    """Probe this machine, plant everything, judge what was said. Takes a few seconds."""
    capabilities = probe_capabilities()
    divided = can_divide(capabilities)
    return Diagnosis(
        environment=environment(),
        capabilities=capabilities,
        checks=tuple(_plant(plant, census=divided) for plant in PLANTS),
        gate=_try_gate(),
    )


def _plant(plant: Plant, *, census: bool) -> Check:
    nothing = Finding(outcome="", accounts={})
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, with a name from our own table
            [sys.executable, "-m", "pytest_rssguard.canary", plant.name],
            capture_output=True, text=True, check=False, timeout=_PATIENCE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if not done.returncode:
            return assess(plant, parse_finding(done.stdout), census=census)
        why = f"its process ended with {done.returncode}: {_last_line(done.stderr)}"
    except (ValueError, subprocess.TimeoutExpired) as error:
        why = str(error)
    return Check(plant=plant, answer=Answer.WRONG, finding=nothing, said=(why,))


def _last_line(text: str) -> str:
    """Return the line that says what went wrong: the last that names an error, or the last."""
    lines = text.strip().splitlines() or [""]
    return next((line.strip() for line in reversed(lines) if "error" in line.lower()), lines[-1].strip())


def _try_gate() -> Gate:
    """Run two tests with the user's own environment: what switches the plugin off there makes this fail."""
    with tempfile.TemporaryDirectory() as folder:
        tests, report = Path(folder, "test_planted.py"), Path(folder, "report.json")
        tests.write_text(_TESTS, encoding="utf-8")
        Path(folder, "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        command = ["-q", "-p", "no:cacheprovider", f"--rssguard-json={report}", str(tests)]
        try:
            done = subprocess.run(  # noqa: S603 - this interpreter, with arguments made here
                [sys.executable, "-m", "pytest", *command],
                cwd=folder, capture_output=True, text=True, check=False, timeout=_PATIENCE, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            records = json.loads(report.read_text(encoding="utf-8"))["tests"]
            found = {record["nodeid"].rpartition("::")[2]: record["outcome"] for record in records}
        except subprocess.TimeoutExpired as error:
            return Gate(answer=Answer.WRONG, said=str(error))
        except (OSError, ValueError, KeyError, TypeError):
            return Gate(answer=Answer.WRONG, said=f"pytest wrote no report: {_last_line(done.stderr or done.stdout)}")
    return judge_gate(found, exit_code=done.returncode)


def judge_gate(found: dict[str, str], *, exit_code: int) -> Gate:
    """Return what the outcomes of the two tests and pytest's exit code are worth."""
    if found == _REQUIRED and exit_code == 1:
        return Gate(answer=Answer.RIGHT, said="the leak failed, the clean test passed")
    outcomes = ", ".join(f"{name} {found.get(name, 'not measured')}" for name in _REQUIRED)
    answer = Answer.BLIND if set(found.values()) == {"unmeasurable"} else Answer.WRONG
    return Gate(answer=answer, said=f"exit code {exit_code}; {outcomes}")


def render(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield the lines of the report, each at most 80 columns."""
    facts = diagnosis.environment
    yield f"pytest-rssguard {VERSION} doctor"
    yield f"{facts['key']}, Linux {facts['kernel']}, huge pages: {facts['thp'] or 'unknown'}"
    yield ""
    yield f"{'what can be measured':22}how it was probed"
    for each in diagnosis.capabilities:
        yield from _row(f"{'yes' if each.present else 'NO':5}{each.name:17}", each.probed)
        if each.found:
            yield from _row(" " * 22, each.found)
        if not each.present:
            yield from _row(" " * 22, f"lost: {each.lost}")
    if facts["thp"] == "always":
        yield from _row(" " * 22, "huge pages are always on: large mappings become resident in steps of 2 MiB")
    yield ""
    yield f"{'planted':24}{'required':26}found"
    for check in diagnosis.checks:
        yield _planted(check)
        for said in check.said:
            yield from _row("     ", said)
    yield from _row(f"{diagnosis.gate.answer.value:9}{'a test run':24}", diagnosis.gate.said)
    yield ""
    yield from _row("", _conclusion(diagnosis))


def _planted(check: Check) -> str:
    plant, finding = check.plant, check.finding
    required = f"{'masked ' if plant.masked else ''}{plant.outcome.value}"
    if plant.account:
        required = f"{required}, {plant.account.value}"
    found = finding.outcome or "-"
    if check.size is not None:
        found = f"{format_size(check.size)} of {format_size(finding.planted)}" if plant.account else f"{found}, +{check.size} B"
    return f"{check.answer.value:9}{plant.name:24}{required:27}{found}".rstrip()


def _row(first: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    ) or [first.rstrip()]  # fmt: skip


def _conclusion(diagnosis: Diagnosis) -> str:
    answers = [check.answer for check in diagnosis.checks]
    if diagnosis.healthy:
        absent, coarse = answers.count(Answer.ABSENT), answers.count(Answer.COARSE)
        notes = [f"{absent} cannot exist here"] * bool(absent) + [f"{coarse} only as one sum"] * bool(coarse)
        planted = f" ({', '.join(notes)})" if notes else ""
        return f"The guard works here: each of {len(answers)} planted patterns was told apart{planted}."
    if Answer.WRONG not in (*answers, diagnosis.gate.answer):
        return (
            "This machine or this setting cannot be measured: guarded tests end as `unmeasurable`, which is a warning and no "
            "failure unless rssguard_unmeasurable says so. A leak would pass. Remove what is named above (LD_PRELOAD, another "
            "allocator, a sanitizer) or set rssguard_unmeasurable = fail."
        )
    return "THE GUARD CANNOT BE TRUSTED HERE: a planted pattern got a wrong answer. Its lines above say which."


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the same as plain JSON values. Sizes in bytes."""
    return {
        "version": VERSION,
        "environment": diagnosis.environment,
        "healthy": diagnosis.healthy,
        "capabilities": [
            {key: getattr(each, key) for key in Capability.__slots__} for each in diagnosis.capabilities
        ],
        "planted": [
            {
                "name": check.plant.name, "answer": check.answer.value.lower(), "said": list(check.said),
                "required": check.plant.outcome.value, "masked": check.plant.masked,
                "account": check.plant.account and check.plant.account.value,
                "planted": check.finding.planted, "least": bounds(check.finding.planted)[0],
                "most": bounds(check.finding.planted)[1], "size": check.size,
                "found": {key: getattr(check.finding, key) for key in Finding.__slots__ if key != "absent"},
            }
            for check in diagnosis.checks
        ],
        "test_run": {"answer": diagnosis.gate.answer.value.lower(), "said": diagnosis.gate.said},
    }  # fmt: skip
