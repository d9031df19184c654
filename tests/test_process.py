"""Another process measured from a test: a child on this interpreter that does on command what it is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Final

import psutil
import pytest

from pytest_rssguard import RssLeak, RssRetained, measure, process
from pytest_rssguard.errors import ProcessError, SettingError
from pytest_rssguard.model import Account, Outcome
from tests.conftest import NATIVE

MIB: Final = 1 << 20
Child = Callable[[str], None]
#: Reads a line of Python, runs it, answers with a line.
LOOP: Final = """
import ctypes, mmap, os, sys, threading, time
kept = []
while line := sys.stdin.readline():
    exec(line)
    print("done", flush=True)
"""


MAP: Final = (
    "m = mmap.mmap(-1, 20 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS);"
    "[m.__setitem__(at, 1) for at in range(0, 20 << 20, 4096)]; kept.append(m)"
)


class Servant:
    """A child process and the pipe to it."""

    def __init__(self) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", NATIVE + LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.tell("libc.free(block(100))")  # what ctypes and malloc need once

    def tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()
        assert self.popen.stdout.readline() == "done\n"


@pytest.fixture
def servant() -> Iterator[Servant]:
    found = Servant()
    yield found
    found.popen.kill()
    found.popen.communicate()


@pytest.mark.parametrize(
    ("line", "outcome", "account", "least", "most"),
    [
        ("None", Outcome.RETURNED, Account.MALLOC_LIVE, -65536, 65536),
        ("churn(20)", Outcome.RETURNED, Account.MALLOC_LIVE, -65536, 65536),
        ("leak(20)", Outcome.LEAKED, Account.MALLOC_LIVE, 20 * MIB, 20 * MIB + 65536),
        ("fill(20)", Outcome.LEAKED, Account.MALLOC_LIVE, 20_000 * 1008, 20_000 * 1008 + 65536),
        ("retain(20)", Outcome.RETAINED, Account.TRIMMABLE, 20 * MIB - 65536, 20 * MIB + 65536),
        ("kept.append([object() for _ in range(500_000)])", Outcome.LEAKED, Account.PYTHON_LIVE, 8_000_000, 8_100_000),
        (
            MAP,
            Outcome.LEAKED,
            Account.MAPPED,
            20 * MIB,
            20 * MIB + 65536,
        ),
    ],
)
def test_what_a_child_does_gets_its_verdict_and_its_account(
    servant: Servant, line: str, outcome: Outcome, account: Account, least: int, most: int
) -> None:
    with process(servant.popen).measure() as m:
        servant.tell(line)
    assert m.outcome is outcome, str(m)
    assert least <= (m.ledger[account] or 0) <= most, str(m)
    assert sum(size or 0 for size in m.ledger.values()) == m.growth
    assert abs(m.ledger[Account.UNEXPLAINED] or 0) <= abs(m.growth) // 100 + 256 * 1024, str(m)


def test_a_pid_a_popen_and_a_psutil_process_are_all_taken(servant: Servant) -> None:
    for target in (servant.popen, servant.popen.pid, psutil.Process(servant.popen.pid)):
        with process(target).returns("1MB"):
            servant.tell("None")


def test_failures_name_the_process(servant: Servant) -> None:
    with pytest.raises(RssLeak) as leak, process(servant.popen).returns("4MB"):
        servant.tell("leak(12)")
    text = str(leak.value)
    assert text.startswith("12.0 MiB leaked (tolerance 4.00 MiB)")
    assert f"process   {servant.popen.pid} {sys.executable}"[:40] in text
    assert "memory that the process allocated is still in use" in " ".join(text.split())
    assert all(len(each) <= 78 for each in text.splitlines() if " " in each.strip())
    with pytest.raises(RssRetained), process(servant.popen).returns("4MB"):
        servant.tell("retain(12)")


def test_what_a_server_frees_soon_after_is_waited_for(servant: Servant) -> None:
    late = "pointer = block(20 * MB); threading.Timer(0.3, libc.free, [pointer]).start()"
    with process(servant.popen).returns("4MB", within=30):
        servant.tell(late)


def test_children_are_summed_and_listed_where_they_are_asked_for(servant: Servant) -> None:
    fork = "r, w = os.pipe(); pid = os.fork(); (pid == 0) and (leak(20), os.write(w, b'x'), time.sleep(600)); os.read(r, 1)"
    with process(servant.popen).measure() as alone, process(servant.popen, children=True).measure() as family:
        servant.tell(fork)
    assert alone.outcome is Outcome.RETURNED, str(alone)
    assert family.outcome is Outcome.LEAKED, str(family)
    assert family.growth - alone.growth > 20 * MIB
    assert sum(size or 0 for size in family.ledger.values()) == family.growth
    assert "(new): +" in str(family)
    servant.tell("import signal; os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)")


def test_one_process_is_measured_inside_the_measurement_of_this_one(servant: Servant) -> None:
    with measure() as own, process(servant.popen).measure() as other:
        servant.tell("leak(10)")
    assert other.outcome is Outcome.LEAKED
    assert own.outcome is Outcome.RETURNED, str(own)


def test_what_is_no_process_is_refused() -> None:
    for given in ("1", None, True, -1, 1.5):
        with pytest.raises(SettingError, match=r"expected a pid, a subprocess\.Popen or a psutil\.Process"):
            process(given)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="children='yes': expected True or False"):
        process(1, children="yes")  # type: ignore[arg-type]


def test_a_process_that_has_ended_is_an_error_of_one_line(servant: Servant) -> None:
    pid = servant.popen.pid
    blocks = process(servant.popen)
    measurement = blocks.measure()
    measurement.__enter__()
    servant.popen.kill()
    servant.popen.wait()
    with pytest.raises(ProcessError, match=f"process {pid}: "):
        measurement.__exit__(None, None, None)
    with pytest.raises(ProcessError, match=f"process {pid}: no such process"):
        process(pid)


def test_nobody_can_trim_another_process(servant: Servant) -> None:
    with (
        pytest.raises(SettingError, match="trim=True: expected False for another process"),
        process(servant.popen).returns(trim=True),
    ):
        pass
