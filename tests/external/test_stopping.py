"""Processes that cannot be read, and how a stopped one goes on: one clear line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_rssguard import census
from pytest_rssguard.errors import ProcessError
from pytest_rssguard.external import read_process


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def refused(pid: int) -> str:
    with pytest.raises(ProcessError) as raised:
        read_process(pid)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def state(pid: int) -> str:
    """Return the state letter of a process of one thread."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_no_such_process() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert "no such process" in refused(process.pid)


def test_zombie() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert "zombie" in refused(process.pid)
    process.wait()


def test_kernel_thread() -> None:
    if not Path("/proc/2/stat").exists() or b"kthreadd" not in Path("/proc/2/stat").read_bytes():
        pytest.skip("no kernel thread is visible here")
    assert "kernel thread" in refused(2)


def test_process_of_another_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with sleeper() as process:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                os.write(writer, refused(process.pid).encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as said:
            assert b"not permitted: it belongs to user 0" in said.read()


def test_process_that_ends_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with sleeper() as process:
        real: Callable[..., object] = census.take

        def end_first(*arguments: object, **more: object) -> object:
            process.kill()
            process.wait()
            return real(*arguments, **more)

        monkeypatch.setattr(census, "take", end_first)
        with pytest.raises(ProcessError, match="ended while it was read"):
            read_process(process.pid)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_stopped_process_goes_on_when_the_reader_fails(failure: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    with sleeper() as process:

        def fail(*_arguments: object, **_more: object) -> None:
            assert state(process.pid) == "T"
            raise failure

        monkeypatch.setattr(census, "take", fail)
        with pytest.raises(failure):
            read_process(process.pid, stop=True)
        assert state(process.pid) != "T"


def test_process_that_somebody_else_stopped_stays_stopped() -> None:
    with sleeper() as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert read_process(process.pid, stop=True)[1].closes
        assert state(process.pid) == "T"
        process.send_signal(signal.SIGCONT)


def test_this_process_is_not_stopped_by_itself() -> None:
    with pytest.raises(ProcessError, match="is this process"):
        read_process(os.getpid(), stop=True)


def test_process_interrupted_while_it_is_being_stopped_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.kill

    def interrupted(pid: int, number: int) -> None:
        real(pid, number)
        if number == signal.SIGSTOP:
            raise KeyboardInterrupt

    with sleeper() as process:
        monkeypatch.setattr(os, "kill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_process(process.pid, stop=True)
        assert state(process.pid) != "T"
