"""Markdown and HTML reports of real runs, the step summary, and `pytest-rssguard html`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_rssguard.record import from_json
from pytest_rssguard.report_file import read_report

Inner = Callable[..., pytest.RunResult]

SOURCE: Final = """
    @pytest.mark.rss_returns
    def test_leak():
        leak(10)

    @pytest.mark.rss_returns
    def test_nothing():
        pass
"""


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what a CI service may have set around this suite."""
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_SHA", "CI_COMMIT_SHA", "CI"):
        monkeypatch.delenv(name, raising=False)


def page_data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="rssguard-data">(.*?)</script>', page, re.DOTALL)
    assert found
    values: dict[str, Any] = json.loads(found[1])
    return values


def test_all_reports_of_one_run_tell_the_same(inner: Inner, pytester: pytest.Pytester) -> None:
    json_path, md_path, html_path = (pytester.path / f"out.{kind}" for kind in ("json", "md", "html"))
    done = inner(
        SOURCE, f"--rssguard-json={json_path}", f"--rssguard-md={md_path}", f"--rssguard-html={html_path}", "--rssguard-report"
    )
    done.assert_outcomes(passed=1, failed=1)
    run = read_report(json_path)
    leak = next(each for each in run.records if each.nodeid.endswith("test_leak"))
    assert (leak.file, leak.line) == ("test_inner.py", 4)
    assert leak.text.startswith(leak.message.partition(": ")[2])
    lines = md_path.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["<!-- pytest-rssguard -->", "**rssguard: 1 leaked, 1 returned** of 2 tests measured"]
    assert any("[`test_inner.py::test_leak`](test_inner.py#L4)" in line for line in lines)
    data = page_data(html_path.read_text(encoding="utf-8"))
    growth = data["columns"].index("growth")
    assert [test[growth] for test in data["tests"]] == [each.growth for each in run.records]
    assert data["environment"] == run.environment
    done.stdout.fnmatch_lines(["leaked*", "2 measured: 1 leaked, 1 returned"])


def test_every_record_of_a_report_is_read_back_as_it_was(inner: Inner, pytester: pytest.Pytester) -> None:
    path = pytester.path / "out.json"
    inner(SOURCE, f"--rssguard-json={path}")
    tests = json.loads(path.read_text(encoding="utf-8"))["tests"]
    assert [from_json(test).to_json() for test in tests] == tests


@pytest.mark.parametrize("option", ["--rssguard-json", "--rssguard-md", "--rssguard-html"])
def test_a_path_that_cannot_be_written_is_a_usage_error_before_any_test(
    inner: Inner, pytester: pytest.Pytester, option: str
) -> None:
    pytester.path.joinpath("file.txt").write_text("")
    done = inner("print('imported')", f"{option}={pytester.path}/file.txt/out", "-s")
    assert done.ret == 4
    done.stderr.fnmatch_lines(
        [f"ERROR: {option}=*/file.txt/out: cannot be written (*); expected a file in a folder that exists"]
    )
    assert "imported" not in done.stdout.str()


def test_a_path_that_is_gone_when_the_tests_end_is_said_and_fails_the_run(inner: Inner, pytester: pytest.Pytester) -> None:
    source = """
        import shutil

        @pytest.mark.rss_returns
        def test_tidy():
            shutil.rmtree("out")
    """
    done = inner(source, "--rssguard-html=out/page.html", "--rssguard-json=report.json")
    assert done.ret == 4
    done.stdout.fnmatch_lines(["rssguard: --rssguard-html=out/page.html: could not be written (No such file or directory)"])
    assert len(read_report(pytester.path / "report.json").records) == 1


def test_workers_give_the_same_reports(inner: Inner, pytester: pytest.Pytester) -> None:
    found = []
    for number in ("0", "2"):
        html_path, md_path = pytester.path / f"{number}.html", pytester.path / f"{number}.md"
        inner(SOURCE, "-n", number, f"--rssguard-html={html_path}", f"--rssguard-md={md_path}")
        data = page_data(html_path.read_text(encoding="utf-8"))
        names = ("nodeid", "outcome", "judged", "tolerance", "line")
        tests = [dict(zip(data["columns"], test, strict=True)) for test in data["tests"]]
        assert all((test["worker"] is None) == (number == "0") for test in tests)
        found.append((
            sorted([test[name] for name in names] for test in tests), md_path.read_text(encoding="utf-8").splitlines()[1],
        ))  # fmt: skip
    assert found[0] == found[1]


def test_the_step_summary_is_appended_where_it_is_asked_for(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pytester.path / "summary.md"
    path.write_text("an earlier step", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    inner(SOURCE, "--rssguard-report")
    assert path.read_text(encoding="utf-8") == "an earlier step"
    inner(SOURCE, "--rssguard-step-summary")
    assert path.read_text(encoding="utf-8").startswith(
        "an earlier step\n\n<!-- pytest-rssguard -->\n**rssguard: 1 leaked, 1 returned** of 2 tests measured\n"
    )


def test_a_step_summary_without_a_service_is_a_notice(inner: Inner) -> None:
    done = inner(SOURCE, "--rssguard-step-summary")
    assert done.ret == 1
    done.stdout.fnmatch_lines(["rssguard: $GITHUB_STEP_SUMMARY is not set, so there is no step summary"])


def test_a_step_summary_that_cannot_be_written_is_a_usage_error(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path))
    done = inner(SOURCE, "--rssguard-step-summary")
    assert done.ret == 4
    done.stderr.fnmatch_lines(
        ["ERROR: --rssguard-step-summary: $GITHUB_STEP_SUMMARY=*: cannot be written (*); expected a file"]
    )


def test_a_flag_does_not_eat_what_follows(inner: Inner) -> None:
    inner(SOURCE, "--rssguard-step-summary", "test_inner.py").assert_outcomes(passed=1, failed=1)


def html_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest_rssguard", "html", *map(str, arguments)], check=False, capture_output=True, text=True
    )


def test_the_command_makes_the_page_that_the_run_makes(inner: Inner, pytester: pytest.Pytester) -> None:
    json_path, html_path, again = (pytester.path / name for name in ("out.json", "out.html", "again.html"))
    inner(SOURCE, f"--rssguard-json={json_path}", f"--rssguard-html={html_path}")
    done = html_command(json_path, "-o", again)
    assert (done.returncode, done.stderr) == (0, "")
    assert again.read_text(encoding="utf-8") == html_path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "no JSON report: Expecting value"),
        ('{"schema": 2}', "schema 2 is newer than 1, which this version reads: update pytest-rssguard"),
        ('{"schema": 1, "environment": {}, "tests": [{}]}', "test 1: record: nodeid is missing"),
        ("[" * 300_000, "nested too deep"),
    ],
)
def test_a_bad_report_is_one_line_and_exit_code_2(tmp_path: Path, text: str | None, says: str) -> None:
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    if text is not None:
        report.write_text(text, encoding="utf-8")
    done = html_command(report, "-o", page)
    assert done.returncode == 2
    assert done.stderr.startswith(f"pytest-rssguard html: {report}: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not page.exists()


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text('{"schema": 1, "environment": {}, "tests": []}', encoding="utf-8")
    done = html_command(report, "-o", tmp_path / "none" / "page.html")
    assert done.returncode == 2
    assert "none/page.html" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [report]
