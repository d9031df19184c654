"""`pytest-rssguard compare` and `merge`: on reports and logs that pytest wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pytest_rssguard.cli import main
from pytest_rssguard.reporters.json_report import render_json
from tests.builders import MIB, record

Inner = Callable[..., pytest.RunResult]

ENVIRONMENT: Final = {"key": "linux-x86_64-cp311-glibc2.36-pymalloc"}
SOURCE: Final = """
    import os

    @pytest.mark.rss_returns(tolerance="60MB")
    @pytest.mark.parametrize("number", range(4))
    def test_held(number):
        if number == 2 and "HELD" in os.environ:
            leak(13)
"""


def report(path: Path, *sizes: int, key: str = ENVIRONMENT["key"]) -> str:
    records = [record(f"t.py::test_{number}", held=size) for number, size in enumerate(sizes)]
    path.write_text(render_json(records, {"key": key}), encoding="utf-8")
    return str(path)


def test_base_against_head_of_real_runs(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner(SOURCE, "--rssguard-json=base.json").assert_outcomes(passed=4)
    monkeypatch.setenv("HELD", "1")
    inner(SOURCE, "--rssguard-json=head.json", "-n2").assert_outcomes(passed=4)
    base, head = str(pytester.path / "base.json"), str(pytester.path / "head.json")
    capsys.readouterr()
    assert main(["compare", base, head]) == 1
    found = capsys.readouterr()
    assert found.out.splitlines()[1].startswith("regressed")
    assert found.out.splitlines()[1].endswith("test_inner.py::test_held[2]")
    assert found.out.splitlines()[-1] == "4 compared: 1 regressed, 3 same"
    assert found.err == ""
    assert main(["compare", head, base]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 compared: 1 improved, 3 same"
    assert main(["compare", base, head, "--md"]) == 1
    assert capsys.readouterr().out.startswith("<!-- pytest-rssguard-compare -->\n**Memory regressed**: 1 regressed, 3 same\n")


@pytest.mark.parametrize("command", [("compare",), ("merge", "-o", "out.json")])
def test_bad_input_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    good, other = report(tmp_path / "a.json", 0), report(tmp_path / "b.json", 0, key="linux-x86_64-cp312-glibc2.36-pymalloc")
    bad = tmp_path / "bad.json"
    bad.write_text('{"schema": 9, "environment": {}, "tests": []}', encoding="utf-8")
    for first, second in ((good, str(bad)), (good, other), (good, "missing.json"), (good, str(tmp_path)), (good, "a\x00b")):
        assert main([*command, first, second]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith(f"pytest-rssguard {command[0]}: ")
        assert told.err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_shards_become_the_report_of_one_run(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner(SOURCE, "--rssguard-json=1.json", "-k", "0 or 1")
    inner(SOURCE, "--rssguard-log=2.jsonl", "-k", "2 or 3", "-n2")
    monkeypatch.chdir(pytester.path)
    logs = sorted(path.name for path in pytester.path.glob("2.*jsonl"))
    assert len(logs) == 2
    capsys.readouterr()
    assert main(["merge", "1.json", *logs, "-o", "all.json"]) == 0
    assert capsys.readouterr().err == ""
    found = json.loads((pytester.path / "all.json").read_text(encoding="utf-8"))
    assert sorted(test["nodeid"] for test in found["tests"]) == [f"test_inner.py::test_held[{number}]" for number in range(4)]
    assert found["environment"]["key"].startswith("linux-")
    assert main(["compare", "all.json", "all.json"]) == 0


def test_of_a_killed_run_the_log_keeps_what_ended(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner(SOURCE.replace("leak(13)", "os._exit(3)"), "--rssguard-log=run.jsonl")
    monkeypatch.setenv("HELD", "1")
    inner(SOURCE.replace("leak(13)", "os._exit(3)"), "--rssguard-log=run.jsonl")
    monkeypatch.chdir(pytester.path)
    capsys.readouterr()
    assert main(["merge", "run.jsonl", "-o", "all.json"]) == 0
    assert capsys.readouterr().err == (
        "run.jsonl: test_inner.py::test_held[2] began and did not end: its process was killed while it ran\n"
    )
    assert len(json.loads((pytester.path / "all.json").read_text(encoding="utf-8"))["tests"]) == 2


def test_a_merged_report_is_whole_or_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = report(tmp_path / "a.json", MIB)
    assert main(["merge", shard, "-o", str(tmp_path / "no" / "all.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    out = tmp_path / "all.json"
    out.write_text("old", encoding="utf-8")
    assert main(["merge", shard, report(tmp_path / "b.json", 2 * MIB), "-o", str(out)]) == 0
    assert capsys.readouterr().err == f"t.py::test_0: in more than one shard; that of {tmp_path / 'b.json'} stays\n"
    assert [test["held"] for test in json.loads(out.read_text(encoding="utf-8"))["tests"]] == [2 * MIB]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
