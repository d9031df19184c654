"""The log that survives a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_rssguard.cli import main

Inner = Callable[..., pytest.RunResult]

SOURCE = """
    import os, signal

    def test_first():
        leak(6)

    @pytest.mark.rss_returns
    def test_second():
        leak(5)

    def test_killed():
        os.kill(os.getpid(), signal.SIGKILL)

    def test_never():
        pass
"""


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_kill_leaves_the_name_of_the_test_that_ran_and_the_growth_of_those_before(
    inner: Inner, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pytester.path / "run.jsonl"
    inner(SOURCE, f"--rssguard-log={path}", "--rssguard-all")
    head, *found = events(path)
    assert head["schema"] == 1
    assert head["worker"] is None
    assert head["environment"]["python"]
    assert found[-1] == {"event": "start", "nodeid": "test_inner.py::test_killed"}
    records = [event["record"] for event in found if event["event"] == "test"]
    assert [record["outcome"] for record in records] == ["leaked", "leaked"]
    assert 6 << 20 <= records[0]["growth"] <= (6 << 20) + 65536

    assert main(["merge", str(path), "-o", str(pytester.path / "all.json")]) == 0
    assert "test_inner.py::test_killed began and did not end" in capsys.readouterr().err
    merged = json.loads((pytester.path / "all.json").read_text(encoding="utf-8"))
    assert [record["nodeid"].rpartition("::")[2] for record in merged["tests"]] == ["test_first", "test_second"]


def test_each_worker_has_a_log_of_its_own_and_a_crash_loses_none_of_it(inner: Inner, pytester: pytest.Pytester) -> None:
    result = inner(SOURCE, "--rssguard-log=run.jsonl", "--rssguard-all", "-n2")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    logs = sorted(pytester.path.glob("run.gw*.jsonl"))
    assert len(logs) >= 2
    assert not (pytester.path / "run.jsonl").exists()
    started = {event["nodeid"] for log in logs for event in events(log)[1:] if event["event"] == "start"}
    ended = {event["nodeid"] for log in logs for event in events(log)[1:] if event["event"] == "end"}
    assert started - ended == {"test_inner.py::test_killed"}


def test_small_records_are_read_back_whole(inner: Inner, pytester: pytest.Pytester) -> None:
    inner("def test_nothing(): pass", "--rssguard-log=run.jsonl", "--rssguard-all").assert_outcomes(passed=1)
    assert main(["merge", str(pytester.path / "run.jsonl"), "-o", str(pytester.path / "all.json")]) == 0
    (record,) = json.loads((pytester.path / "all.json").read_text(encoding="utf-8"))["tests"]
    assert record["outcome"] == "returned"
    assert record["growth"] == sum(size or 0 for size in record["accounts"].values())


@pytest.mark.parametrize("extra", [(), ("-n2",)])
def test_a_path_that_cannot_be_written_is_a_usage_error(inner: Inner, extra: tuple[str, ...]) -> None:
    result = inner("def test_nothing(): pass", "--rssguard-log=nowhere/at/all.jsonl", *extra)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --rssguard-log=*nowhere/at/all*: cannot be written (No such file or directory)*"])
