"""`pytest-rssguard explain`, run as users run it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rssguard.model import Account
from tests.external.conftest import Program

Start = Callable[[], Program]


def explain(*arguments: str | int, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_rssguard", "explain", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)  # type: ignore[call-overload,no-any-return]


def test_one_screen_tells_the_case(start: Start) -> None:
    program = start()
    program.ask("question")
    done = explain(program.pid)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"process {program.pid} (patterns), 1 thread, read in ")
    assert all(len(line) <= 78 for line in lines)
    assert len(lines) <= 45
    assert "16,000 live blocks of 24 bytes or less hold 63.0 MiB" in done.stdout
    assert "malloc_trim(0) would give back 1." in done.stdout
    assert "malloc, main heap, [heap]" in done.stdout
    assert "".join(lines[-4:]).count("P") > 78


def test_a_narrow_terminal_gets_no_map(start: Start) -> None:
    program = start()
    done = subprocess.run(
        [sys.executable, "-m", "pytest_rssguard", "explain", str(program.pid)],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "60"},
    )  # fmt: skip
    assert "one letter for" not in done.stdout


@pytest.mark.parametrize("stop", [(), ("--stop",)])
def test_json_has_the_names_of_the_report_and_sums_to_rss(start: Start, stop: tuple[str, ...]) -> None:
    program = start()
    program.ask("threads_every_other")
    said = program.ask("tell")
    done = explain(program.pid, "--json", *stop)
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["pid"] == program.pid
    assert found["rss"] == said["rss"]
    assert list(found["accounts"]) == [account.value for account in Account]
    assert sum(size or 0 for size in found["accounts"].values()) == found["rss"]
    assert sum(mapping["rss"] for mapping in found["mappings"]) == found["rss"]
    assert found["malloc"]["uordblks"] == said["uordblks"]
    assert len(found["arenas"]) == 9
    assert sum(arena["trimmable"] for arena in found["arenas"]) == found["trim"] == found["accounts"]["trimmable"]
    assert program.ask("tell") == said


def test_no_such_process_is_one_line(start: Start) -> None:
    program = start()
    program.close()
    done = explain(program.pid)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pytest-rssguard explain: process {program.pid}: no such process\n"


def test_a_zombie_is_said_to_be_one(start: Start) -> None:
    program = start()
    program.process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    done = explain(program.pid)
    assert done.returncode == 1
    assert done.stderr.startswith(f"pytest-rssguard explain: process {program.pid}: is a zombie")
    assert len(done.stderr.splitlines()) == 1


def kernel_thread() -> int | None:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[6]) & 0x00200000:
            return int(path.parent.name)
    return None


def test_a_kernel_thread_has_no_memory_to_explain() -> None:
    pid = kernel_thread()
    if pid is None:
        pytest.skip("no kernel thread is visible here (a container)")
    done = explain(pid)
    assert done.returncode == 1
    assert done.stderr == f"pytest-rssguard explain: process {pid}: is a kernel thread: it has no memory of its own\n"


def test_another_users_process_is_not_permitted(start: Start) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    program = start()
    code = f"""
import os
from pytest_rssguard.external import ProcessError, check
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    check({program.pid})
except ProcessError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"process {program.pid}: not permitted: it belongs to user 0; run as that user or as root\n"


@pytest.mark.parametrize("arguments", [(), ("x",), ("-1",), ("0",), ("99999999",), ("1", "2"), ("1", "--halt")])
def test_bad_arguments_are_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = explain(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: pytest-rssguard ")


def test_ended_by_a_signal_it_lets_the_stopped_process_go_on(start: Start) -> None:
    program = start()
    program.ask("plain")
    # a reader that is terminated in the middle of the read
    code = f"""
import os, signal, sys
from pytest_rssguard import external
from pytest_rssguard.cli import main

def take(*_, **__):
    with open("/proc/{program.pid}/stat") as file:
        print(file.read().rpartition(")")[2].split()[0], flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

external.census.take = take
sys.exit(main(["explain", "{program.pid}", "--stop"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "T\n"
    assert done.returncode == 128 + signal.SIGTERM
    assert program.ask("tell")["kept"] == 20_000


def test_progress_is_shown_only_on_a_terminal_and_leaves_nothing_behind(start: Start) -> None:
    program = start()
    code = f"""
import sys
from pytest_rssguard.commands import explain
explain._QUIET = -1.0
from pytest_rssguard.cli import main
sys.exit(main(["explain", "{program.pid}"]))
"""
    controller, terminal = pty.openpty()
    try:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, check=False)
        shown = os.read(controller, 65536).decode()
    finally:
        os.close(terminal)
        os.close(controller)
    assert done.returncode == 0
    assert f"reading process {program.pid}: " in shown
    assert shown.endswith("\r\x1b[K")
