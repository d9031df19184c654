"""Why a process cannot be read: one clear line each, from made-up /proc files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_rssguard import external
from pytest_rssguard.errors import ProcessError, UnreadableError
from pytest_rssguard.external import check, read_name, read_process, read_statm

PID = 4_194_303  # no process has the largest number while pid_max is the usual 32,768 or 4,194,304


def stat(state: str = "S", flags: int = 0) -> str:
    return f"{PID} (a) b) {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 0\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / str(PID)
    (folder / "task" / str(PID)).mkdir(parents=True)
    (folder / "stat").write_text(stat())
    for name in ("smaps", "mem", "pagemap"):
        (folder / name).write_text("")
    return tmp_path


def refusal(proc: Path) -> str:
    with pytest.raises(ProcessError) as caught:
        check(PID, proc=str(proc))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"process {PID}: ")
    return text.removeprefix(f"process {PID}: ")


def test_no_such_process(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "no such process"


def test_a_process_that_exists_but_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(ProcessError, match="hidepid"):
        check(PID)


@pytest.mark.parametrize(("state", "flags", "text"), [("Z", 0, "zombie"), ("X", 0, "zombie"), ("S", 1 << 21, "kernel thread")])
def test_what_has_no_memory(proc: Path, state: str, flags: int, text: str) -> None:
    (proc / str(PID) / "stat").write_text(stat(state, flags))
    assert text in refusal(proc)


def test_a_readable_process_is_not_refused(proc: Path) -> None:
    check(PID, proc=str(proc))


def refuse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    opened = os.open

    def refusing(path: str, flags: int) -> int:
        if path.endswith(f"/{name}"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags)

    monkeypatch.setattr(os, "open", refusing)


def test_yama(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "mem")
    short = external._short
    monkeypatch.setattr(external, "_short", lambda path: b"1\n" if path.endswith("ptrace_scope") else short(path))
    assert refusal(proc).startswith("not permitted: Yama (kernel.yama.ptrace_scope=1) allows only a parent")


def test_other_rights(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "smaps")
    assert "Permission denied" in refusal(proc)
    assert "PR_SET_DUMPABLE" in refusal(proc)


def test_another_user(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "smaps")
    monkeypatch.setattr(os, "geteuid", lambda: proc.stat().st_uid + 1)
    assert refusal(proc) == f"not permitted: it belongs to user {proc.stat().st_uid}; run as that user or as root"


def test_a_process_without_mappings_has_ended_meanwhile(proc: Path) -> None:
    (proc / str(PID) / "task" / str(PID) / "status").write_text("State:\tS (sleeping)\nvoluntary_ctxt_switches:\t1\n")
    with pytest.raises(ProcessError, match="ended while it was read"):
        read_process(PID, proc=str(proc))


def test_a_process_that_vanishes_half_way(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(path: str) -> None:
        (proc / str(PID) / "stat").unlink()
        raise UnreadableError(f"{path}: No such process")

    monkeypatch.setattr(external, "read_regions", vanish)
    with pytest.raises(ProcessError, match=f"^process {PID}: ended while it was read$"):
        read_process(PID, proc=str(proc))


def test_a_name_cannot_write_to_the_terminal(proc: Path) -> None:
    (proc / str(PID) / "comm").write_bytes(b"\x1b[31mred\n")
    assert read_name(PID, proc=str(proc)) == "?[31mred"


def test_statm_is_what_ps_shows(proc: Path) -> None:
    assert read_statm(PID, proc=str(proc)) is None
    (proc / str(PID) / "statm").write_text("100 7 1 1 0 1 0\n")
    assert read_statm(PID, proc=str(proc)) == 7 * os.sysconf("SC_PAGE_SIZE")
