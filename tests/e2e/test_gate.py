"""The regression gate: --rssguard-baseline, --rssguard-update, --rssguard-candidate, with real memory of known sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_rssguard.environment import environment

Inner = Callable[..., pytest.RunResult]
Gate = Callable[..., pytest.RunResult]

#: What the tests of the suite leave, in MiB, is in the environment: the same source before and after a "change".
SUITE: Final = """
    import os

    @pytest.mark.rss_returns(tolerance="60MB")
    def test_held():
        if size := float(os.environ.get("HELD", "0")):
            leak(round(size))

    @pytest.mark.rss_returns(tolerance="60MB")
    def test_kept():
        if size := int(os.environ.get("KEPT", "0")):
            retain(size)

    @pytest.mark.rss_returns
    def test_nothing():
        pass
"""


@pytest.fixture
def gate(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Run SUITE, or the source given, with a baseline folder "rss"; keywords are set in the environment."""
    for name in ("CI", "HELD", "KEPT"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str | Path, source: str = SUITE, **environment: str) -> pytest.RunResult:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return inner(source, "--rssguard-baseline=rss", *args)

    return run


def baseline_file(pytester: pytest.Pytester) -> Path:
    (path,) = (pytester.path / "rss").glob("*.json")
    return path


def entries(pytester: pytest.Pytester) -> dict[str, Any]:
    tests = json.loads(baseline_file(pytester).read_text(encoding="utf-8"))["tests"]
    return {name.partition("::")[2]: entry for name, entry in tests.items()}


def edit(pytester: pytest.Pytester, name: str, **changes: Any) -> None:  # noqa: ANN401 - any JSON value
    path = baseline_file(pytester)
    values = json.loads(path.read_text(encoding="utf-8"))
    values["tests"][f"test_inner.py::{name}"].update(changes)
    path.write_text(json.dumps(values), encoding="utf-8")


# --- the life of a baseline -------------------------------------------------------------------------------------


def test_without_a_file_all_passes_with_a_notice_and_nothing_is_written(gate: Gate, pytester: pytest.Pytester) -> None:
    result = gate()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["no baseline of this environment, linux-*: nothing compared; 3 new"])
    result.stdout.fnmatch_lines(["*to begin one: --rssguard-baseline=rss --rssguard-update=new"])
    assert not (pytester.path / "rss").exists()


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])
def test_a_regression_fails_the_guilty_test_alone_and_its_record_says_so(
    gate: Gate, pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    gate("--rssguard-update=new", *workers).assert_outcomes(passed=3)
    before = baseline_file(pytester).read_bytes()
    assert entries(pytester)["test_held"]["held"] <= 128 << 10
    result = gate(*workers, "--rssguard-json=report.json", "--junitxml=junit.xml", HELD="13")
    result.assert_outcomes(passed=2, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED test_inner.py::test_held - RssRegression: 13.0 MiB held, baseline * (limit 1.* MiB)"])
    result.stdout.fnmatch_lines(["confirmed yes: the body ran once more and held 13.0 MiB", "growth *+13.0 MiB*"])
    result.stdout.fnmatch_lines(["3 compared with rss/linux-*.json: 1 regressed, 2 within"])
    tests = json.loads((pytester.path / "report.json").read_text(encoding="utf-8"))["tests"]
    (record,) = (test for test in tests if test["nodeid"].endswith("test_held"))
    assert record["outcome"] == "returned"
    assert record["regression"]["limit"] == record["regression"]["baseline"] + (1 << 20)
    assert record["regression"]["limit"] < record["held"] < 14 << 20
    assert record["message"].startswith("RssRegression: 13.0 MiB held, baseline ")
    assert record["text"].startswith(record["message"])
    assert [test["regression"] for test in tests if test is not record] == [None, None]
    junit = (pytester.path / "junit.xml").read_text(encoding="utf-8")
    assert junit.count('name="rssguard_gate" value="regressed"') == 1
    assert junit.count('name="rssguard_gate" value="within"') == 2
    assert 'message="RssRegression: 13.0 MiB held' in junit
    assert baseline_file(pytester).read_bytes() == before


def test_retained_memory_regresses_too_and_only_warns_where_the_marker_says_so(gate: Gate) -> None:
    gate("--rssguard-update=new").assert_outcomes(passed=3)
    result = gate(KEPT="10")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*RssRegression: * MiB retained, baseline * (limit 1.* MiB)"])
    result.stdout.fnmatch_lines(["confirmed yes: the body ran once more and retained * MiB"])
    warned = gate("--rssguard-retained=warn", KEPT="10")
    warned.assert_outcomes(passed=3, warnings=1)
    warned.stdout.fnmatch_lines(['*RssGuardWarning: * MiB retained, baseline *: a warning, as retained="warn" asks for'])
    warned.stdout.fnmatch_lines(["*: 1 warned, 2 within"])


@pytest.mark.parametrize(("mode", "workers"), [("new", ()), ("ratchet", ()), ("prune", ()), ("all", ()), ("all", ("-n2",))])
def test_updating_twice_changes_no_byte(gate: Gate, pytester: pytest.Pytester, mode: str, workers: tuple[str, ...]) -> None:
    gate("--rssguard-update=new")
    path = baseline_file(pytester)
    before, at = path.read_bytes(), path.stat().st_mtime_ns
    result = gate(f"--rssguard-update={mode}", *workers)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["written  rss/linux-*.json: nothing changed"])
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == at
    assert path.stat().st_mode & 0o777 == 0o644


def test_all_accepts_a_regression_and_shows_what_changed(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=new")
    result = gate("--rssguard-update=all", HELD="13")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["3 compared with *: 1 accepted, 2 within", "written  rss/*: 1 raised", "change *held *"])
    result.stdout.fnmatch_lines(["raised * -> 13.*MiB * test_inner.py::test_held"])
    assert 13 << 20 <= entries(pytester)["test_held"]["held"] <= (13 << 20) + (128 << 10)
    gate(HELD="13").assert_outcomes(passed=3)


def test_a_ratchet_only_lowers_and_new_only_adds(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=new", "--deselect=test_inner.py::test_nothing", HELD="13", KEPT="0")
    assert "test_nothing" not in entries(pytester)
    gate("--rssguard-update=new", HELD="2").stdout.fnmatch_lines(["written  rss/*: 1 added"])
    assert entries(pytester)["test_held"]["held"] >= 13 << 20
    gate("--rssguard-update=ratchet", HELD="2").stdout.fnmatch_lines(["written  rss/*: 1 lowered"])
    assert 2 << 20 <= entries(pytester)["test_held"]["held"] < 3 << 20
    failing = gate("--rssguard-update=ratchet", HELD="13")
    failing.assert_outcomes(passed=2, failed=1)
    assert entries(pytester)["test_held"]["held"] < 3 << 20


def test_a_failing_test_never_updates(gate: Gate, pytester: pytest.Pytester) -> None:
    source = """
        @pytest.mark.rss_returns
        def test_leaks():
            leak(9)

        @pytest.mark.rss_returns(tolerance="60MB")
        def test_fails():
            leak(9)
            raise ValueError

        @pytest.mark.rss_returns(tolerance="60MB")
        def test_teardown(request):
            request.addfinalizer(lambda: 1 / 0)

        @pytest.mark.rss_returns(tolerance="60MB")
        def test_skips():
            pytest.skip()

        @pytest.mark.rss_returns(tolerance="60MB")
        @pytest.mark.xfail
        def test_xfails():
            raise ValueError

        @pytest.mark.rss_returns
        def test_fine():
            pass
    """
    gate("--rssguard-update=all", "--rssguard-candidate=candidate.json", source=source)
    assert list(entries(pytester)) == ["test_fine"]
    assert (pytester.path / "candidate.json").read_bytes() == baseline_file(pytester).read_bytes()


# --- confirmation, waivers, changed tests -----------------------------------------------------------------------


FIRST_ONLY: Final = """
    import os
    import unittest
    runs = []

    @pytest.mark.rss_returns(tolerance="60MB")
    def test_first_use():
        runs.append(1)
        if "HELD" in os.environ and len(runs) == 1:
            leak(13)
"""


def test_first_use_cost_is_no_regression_but_a_notice(gate: Gate) -> None:
    gate("--rssguard-update=new", source=FIRST_ONLY)
    result = gate("-W", "error", source=FIRST_ONLY, HELD="1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*: 1 once", "once     test_inner.py::test_first_use"])


@pytest.mark.parametrize("trouble", ["raise ValueError", "pytest.fail('no')", "pytest.skip('no')", "raise SystemExit(3)"])
def test_a_confirmation_that_raises_leaves_it_unconfirmed_and_warns(gate: Gate, trouble: str) -> None:
    source = FIRST_ONLY + f"        if len(runs) == 2:\n            {trouble}\n"
    gate("--rssguard-update=new", source=source)
    result = gate(source=source, HELD="1")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*RssGuardWarning: 13.0 MiB held*: no regression is called, since the second run * raised *"])
    result.stdout.fnmatch_lines(["*: 1 unconfirmed"])


def test_an_interrupted_confirmation_interrupts(gate: Gate) -> None:
    source = FIRST_ONLY + "        if len(runs) == 2:\n            raise KeyboardInterrupt\n"
    gate("--rssguard-update=new", source=source)
    result = gate(source=source, HELD="1")
    assert result.ret == pytest.ExitCode.INTERRUPTED


UNITTEST: Final = """
    import os
    import unittest
    runs = []

    @pytest.mark.rss_returns(tolerance="60MB")
    class TestIt(unittest.TestCase):
        def test_plain(self):
            if "HELD" in os.environ:
                leak(13)

        def test_trouble(self):
            runs.append(1)
            if "HELD" in os.environ:
                leak(13)
                self.assertEqual(len(runs), 1)

    @pytest.mark.rss_returns(tolerance="60MB")
    class TestLoop(unittest.IsolatedAsyncioTestCase):
        async def test_loop(self):
            if "HELD" in os.environ:
                leak(13)

    @pytest.mark.rss_returns(tolerance="60MB", scope="test")
    def test_whole():
        if "HELD" in os.environ:
            leak(13)

    @pytest.mark.rss_returns(tolerance="60MB", rounds=3)
    def test_rounds():
        if "HELD" in os.environ:
            leak(13)
"""


def test_what_cannot_run_twice_regresses_unconfirmed_and_says_so(gate: Gate) -> None:
    gate("--rssguard-update=new", source=UNITTEST).assert_outcomes(passed=5)
    result = gate("-rA", source=UNITTEST, HELD="1")
    result.stdout.fnmatch_lines(["*: 4 regressed, 1 unconfirmed"])
    # the whole test is measured to its teardown: its body has passed, and its teardown fails
    result.assert_outcomes(passed=2, failed=3, errors=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "ERROR test_inner.py::test_whole - RssRegression: 13.0 MiB held*",
            "FAILED test_inner.py::TestIt::test_plain - RssRegression: 13.0 MiB held*",
            "FAILED test_inner.py::TestLoop::test_loop - RssRegression: 1* MiB held*",
            "FAILED test_inner.py::test_rounds - RssRegression: 13.0 MiB held*",
        ]
    )
    result.stdout.fnmatch_lines(["confirmed could not be tried: unittest.IsolatedAsyncioTestCase starts its*"])
    result.stdout.fnmatch_lines(["confirmed yes: each of the 3 rounds was over the limit; the least counts"])
    result.stdout.fnmatch_lines(["confirmed could not be tried: a test measured with its fixtures runs once"])


def test_a_waiver_holds_until_its_day_is_over_and_updates_keep_it(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=new")
    edit(pytester, "test_held", note="GH-123", expires="2999-12-31")
    result = gate(HELD="13")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["waived   test_inner.py::test_held until 2999-12-31: GH-123"])
    gate("--rssguard-update=all", HELD="13")
    assert (entries(pytester)["test_held"]["note"], entries(pytester)["test_held"]["expires"]) == ("GH-123", "2999-12-31")
    edit(pytester, "test_held", held=0, expires="2020-01-31")
    over = gate(HELD="13")
    over.assert_outcomes(passed=2, failed=1)
    over.stdout.fnmatch_lines(["note      GH-123", "waiver    ended on 2020-01-31*"])
    gate().stdout.fnmatch_lines(["expired  test_inner.py::test_held until 2020-01-31: GH-123"])


def test_a_changed_test_is_compared_and_only_warned(gate: Gate) -> None:
    gate("--rssguard-update=new")
    changed = SUITE.replace("leak(round(size))", "leak(round(size) + 1)")
    result = gate(source=changed, HELD="13")
    result.assert_outcomes(passed=3, warnings=1)
    result.stdout.fnmatch_lines(["*RssGuardWarning: 14.0 MiB held*since the test itself was changed*--rssguard-update=all"])
    gate(source=SUITE.replace("leak(", "  leak( ").replace("60MB", "70MB"), HELD="13").assert_outcomes(passed=2, failed=1)
    gate("--rssguard-update=all", source=changed)
    gate(source=changed, HELD="13").assert_outcomes(passed=2, failed=1)


def test_samples_of_many_rounds_widen_the_limit(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=new", "--rssguard-rounds=5")
    assert len(entries(pytester)["test_held"]["samples"]) == 5
    edit(pytester, "test_held", samples=[size << 20 for size in (1, 3, 5, 7, 9)])
    gate(HELD="13").assert_outcomes(passed=3)
    edit(pytester, "test_held", samples=[size << 20 for size in (1, 3, 5, 7)])
    gate(HELD="13").assert_outcomes(passed=2, failed=1)


def test_all_tests_without_a_marker_can_be_gated(gate: Gate, pytester: pytest.Pytester) -> None:
    source = """
        import os

        def test_cheap():
            if "HELD" in os.environ:
                leak(3)

        def test_examined():
            if "HELD" in os.environ:
                leak(13)
    """
    gate("--rssguard-update=new", "--rssguard-all", source=source)
    assert sorted(entries(pytester)) == ["test_cheap", "test_examined"]
    result = gate("--rssguard-all", "--rssguard-json=report.json", source=source, HELD="1")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["confirmed yes: the body ran once more and held 3.00 MiB"])
    result.stdout.fnmatch_lines(["re-run    pytest test_inner.py::test_cheap --rssguard-baseline=rss --rssguard-all"])
    for record in json.loads((pytester.path / "report.json").read_text(encoding="utf-8"))["tests"]:
        assert record["regression"] is not None
        assert sum(size or 0 for size in record["accounts"].values()) == record["growth"]
    gate(source=source, HELD="1").assert_outcomes(passed=2)


def test_expected_regressions_and_ours_by_name(gate: Gate) -> None:
    source = """
        import os
        from pytest_rssguard import RssRegression

        @pytest.mark.rss_returns(tolerance="60MB")
        @pytest.mark.xfail(raises=RssRegression, strict=False)
        def test_expected():
            if "HELD" in os.environ:
                leak(13)
    """
    gate("--rssguard-update=new", source=source).assert_outcomes(xpassed=1)
    gate(source=source, HELD="1").assert_outcomes(xfailed=1)


# --- new and stale ----------------------------------------------------------------------------------------------


@pytest.fixture
def with_stale(gate: Gate, pytester: pytest.Pytester) -> Gate:
    """Return `gate` with a baseline that has an entry more than the suite."""
    gate("--rssguard-update=new", source=SUITE + "\n    @pytest.mark.rss_returns\n    def test_old(): pass\n")
    assert "test_old" in entries(pytester)
    return gate


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("-n2",), (".", "-p", "no:cacheprovider"), ("test_inner.py",),
    ],
    ids=lambda arguments: " ".join(arguments) or "plain",
)  # fmt: skip
def test_stale_entries_are_reported_on_complete_runs(with_stale: Gate, arguments: tuple[str, ...]) -> None:
    result = with_stale(*arguments)
    result.stdout.fnmatch_lines(["stale    test_inner.py::test_old", "*to drop them: --rssguard-update=prune"])
    assert result.ret == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("-k", "held or kept or nothing"), ("-m", "rss_returns"), ("test_inner.py::test_held",), ("--lf",), ("-x",),
        ("--deselect=test_inner.py::test_kept",), ("--collect-only",), ("-n2", "-x"), ("other",), ("--rssguard-off",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_stale_entries_are_not_guessed_on_partial_runs(
    with_stale: Gate, pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    before = baseline_file(pytester).read_bytes()
    pytester.mkdir("other").joinpath("test_other.py").write_text("def test_other(): pass", encoding="utf-8")
    stop = "\n    def test_0(): raise ValueError\n" if "-x" in arguments else ""
    result = with_stale("--rssguard-update=prune", *arguments, source=stop + SUITE)
    result.stdout.no_fnmatch_line("stale *")
    assert baseline_file(pytester).read_bytes() == before


def test_a_deselecting_plugin_makes_a_run_partial_under_xdist_too(with_stale: Gate, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        def pytest_collection_modifyitems(config, items):
            config.hook.pytest_deselected(items=[items.pop()])
    """)
    for workers in ((), ("-n2",)):
        with_stale(*workers).stdout.no_fnmatch_line("stale *")


def test_a_crashed_worker_and_an_uncollected_file_make_a_run_partial(with_stale: Gate, pytester: pytest.Pytester) -> None:
    crash = SUITE + "\n    def test_crash():\n        os._exit(1)\n"
    with_stale("-n2", "--max-worker-restart=0", source=crash).stdout.no_fnmatch_line("stale *")
    pytester.path.joinpath("test_broken.py").write_text("import nothing_of_that_name", encoding="utf-8")
    with_stale("--continue-on-collection-errors").stdout.no_fnmatch_line("stale *")


def test_prune_drops_stale_entries_and_touches_nothing_else(with_stale: Gate, pytester: pytest.Pytester) -> None:
    with_stale("--rssguard-update=all")
    assert "test_old" in entries(pytester)
    result = with_stale("--rssguard-update=prune")
    result.stdout.fnmatch_lines(["written  rss/*: 1 dropped", "dropped *test_inner.py::test_old"])
    assert sorted(entries(pytester)) == ["test_held", "test_kept", "test_nothing"]


# --- CI, candidates, environments -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["new", "ratchet", "prune"])
def test_in_ci_nothing_is_written_but_a_candidate(gate: Gate, pytester: pytest.Pytester, mode: str) -> None:
    result = gate(f"--rssguard-update={mode}", "--rssguard-candidate=out.json", CI="true")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["kept     rss/*.json as it is: CI is set*"])
    assert not (pytester.path / "rss").exists()
    found = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["tests"]
    assert len(found) == (0 if mode == "prune" else 3)


def test_in_ci_an_explicit_all_writes(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=all", CI="1").stdout.fnmatch_lines(["written  rss/*: 3 added"])
    assert len(entries(pytester)) == 3


def test_a_candidate_alone_is_the_file_that_all_would_write(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=new")
    before = baseline_file(pytester).read_bytes()
    result = gate("--rssguard-candidate=out.json", HELD="13", CI="true")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["candidate out.json: 1 raised"])
    assert baseline_file(pytester).read_bytes() == before
    baseline_file(pytester).write_bytes((pytester.path / "out.json").read_bytes())
    assert 13 << 20 <= entries(pytester)["test_held"]["held"] <= (13 << 20) + (128 << 10)
    result = gate("--rssguard-update=all", "--rssguard-candidate=out.json", HELD="13")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["written  rss/*: nothing changed", "candidate out.json: nothing changed"])
    assert (pytester.path / "out.json").read_bytes() == baseline_file(pytester).read_bytes()


def test_the_nearest_environment_is_named_with_what_differs(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=new")
    path = baseline_file(pytester)
    libc = next(part for part in path.stem.split("-") if part.startswith("glibc"))
    path.rename(path.with_name(path.name.replace(libc, "glibc2.99")))
    result = gate(HELD="13")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([f"nearest  linux-*glibc2.99*: glibc2.99, here {libc}"])


def test_two_runs_that_write_at_once_leave_one_whole_file(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=new")
    expected = {name: set(entry) for name, entry in entries(pytester).items()}
    baseline_file(pytester).unlink()
    command = [sys.executable, "-m", "pytest", "-q", "--rssguard-baseline=rss", "--rssguard-update=all", "test_inner.py"]
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=pytester.path) for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert {name: set(entry) for name, entry in entries(pytester).items()} == expected
    assert [each.name for each in (pytester.path / "rss").iterdir()] == [baseline_file(pytester).name]


def test_the_folder_may_stand_in_the_ini_file_and_starts_there(gate: Gate, inner: Inner, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=new")
    pytester.makeini("[pytest]\nrssguard_baseline = rss\n")
    pytester.mkdir("below")
    result = pytester.runpytest_subprocess(
        "--rootdir=.", f"-c{pytester.path / 'tox.ini'}", "test_inner.py", "--rssguard-candidate=below/out.json"
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["3 compared with rss/linux-*.json: 3 within"])
    assert (pytester.path / "below" / "out.json").exists()
    del inner


def test_quiet_it_is_one_line(gate: Gate) -> None:
    gate("--rssguard-update=new")
    result = gate("-q")
    result.stdout.fnmatch_lines(["3 compared with rss/linux-*.json: 3 within"])
    result.stdout.no_fnmatch_line("=* rssguard baseline =*")


# --- bad input --------------------------------------------------------------------------------------------------


BROKEN: Final = {
    "empty": "",
    "truncated": '{"schema": 1, "environment": {"key"',
    "newer": '{"schema": 2, "environment": {"key": "%s"}, "tests": {}}',
    "deep": "[" * 200_000,
    "huge": '{"schema": 1, "environment": {"key": "%s"}, "tests": {"a": {"note": "' + "x" * 2_000_000,
    "wrong type": '{"schema": 1, "environment": {"key": "%s"}, "tests": {"a": {"held": "0", "retained": 0}}}',
    "nan": '{"schema": 1, "environment": {"key": "%s"}, "tests": {"a": {"held": NaN, "retained": 0}}}',
    "infinity": '{"schema": 1, "environment": {"key": "%s"}, "tests": {"a": {"held": -Infinity, "retained": 0}}}',
    "traversal": '{"schema": 1, "environment": {"key": "%s"}, "tests": {"../../etc/passwd": {"held": 0, "retained": 0}}}',
    "key": '{"schema": 1, "environment": {"key": "../%s"}, "tests": {}}',
    "merge conflict": '<<<<<<< HEAD\n{"schema": 1, "environment": {"key": "%s"}, "tests": {}}\n',
}  # fmt: skip


def refused(result: pytest.RunResult, path: Path, text: str) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (told,) = [line for line in result.errlines if line]
    assert told.startswith(f"ERROR: rss/{path.name}: ")
    assert len(told) < 400
    assert "passed" not in result.stdout.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_baseline_is_one_line_exit_4_and_untouched(pytester: pytest.Pytester, name: str) -> None:
    path = pytester.mkdir("rss") / f"{environment()['key']}.json"
    text = BROKEN[name].replace("%s", path.stem)
    path.write_text(text, encoding="utf-8")
    pytester.makepyfile("def test_one():\n    raise AssertionError('must not run')")
    for arguments in ((), ("--rssguard-update=all",)):
        refused(pytester.runpytest_inprocess("--rssguard-baseline=rss", *arguments), path, text)


def test_a_broken_baseline_under_xdist(gate: Gate, pytester: pytest.Pytester) -> None:
    path = pytester.mkdir("rss") / f"{environment()['key']}.json"
    path.write_text("{", encoding="utf-8")
    refused(gate("-n2", "--rssguard-update=all"), path, "{")


def test_a_baseline_that_is_no_text_or_no_file(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("--rssguard-update=new")
    path = baseline_file(pytester)
    path.write_bytes(b'{"schema": 1, "\xff')
    assert gate().ret == pytest.ExitCode.USAGE_ERROR
    path.unlink()
    path.mkdir()
    result = gate()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [f"ERROR: rss/{path.name}: cannot be read (Is a directory)"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--rssguard-update=new",), "--rssguard-update='new': expected --rssguard-baseline=DIR beside it"),
        (("--rssguard-candidate=x",), "--rssguard-candidate='x': expected --rssguard-baseline=DIR beside it"),
        (("--rssguard-update=some", "--rssguard-baseline=rss"), "--rssguard-update='some': expected new, ratchet, all, prune"),
        (("--rssguard-baseline=conftest.py",), "--rssguard-baseline='conftest.py': expected a folder"),
        (
            ("--rssguard-baseline=rss", "--rssguard-candidate=no/such/file"),
            "--rssguard-candidate=*/no/such/file: cannot be written (No such file or directory)",
        ),
        (
            ("--rssguard-baseline=conftest.py/rss", "--rssguard-update=new"),
            "conftest.py/rss/linux-*.json: cannot be read (Not a directory)",
        ),
        (
            ("--rssguard-baseline=/proc/rss", "--rssguard-update=new"),
            "--rssguard-baseline='/proc/rss': expected a folder that can be made (No such file or directory)",
        ),
    ],
)  # fmt: skip
def test_bad_options_are_one_line_and_exit_4(pytester: pytest.Pytester, arguments: tuple[str, ...], expected: str) -> None:
    pytester.makeconftest("")
    pytester.makepyfile("def test_one():\n    raise AssertionError('must not run')")
    result = pytester.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {expected}*"])
    assert len([line for line in result.errlines if line]) == 1
