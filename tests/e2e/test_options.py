"""Ini values, the command line, the terminal table, and runs with parts of pytest switched off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

Inner = Callable[..., pytest.RunResult]
Records = Callable[..., dict[str, Any]]

LEAK_AND_NOTHING: Final = """
    @pytest.mark.rss_returns
    def test_leak():
        leak(10)

    @pytest.mark.rss_returns
    def test_nothing():
        pass
"""
PRECEDENCE: Final = """
    @pytest.mark.rss_returns
    def test_bare():
        retain(10)

    @pytest.mark.rss_returns(tolerance="3MB", trim=False, retained="warn")
    def test_marker():
        retain(10)
"""


def _seen(tests: dict[str, Any]) -> dict[str, tuple[int, str]]:
    return {name: (record["tolerance"] >> 20, record["outcome"]) for name, record in tests.items() if name}


def test_blocks_take_the_same_defaults(records: Records, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nrssguard_tolerance = 20MB\n")
    tests = records("""
        def test_block(rssguard):
            with rssguard.returns():
                leak(10)
    """)
    assert _seen(tests) == {"test_block": (20, "returned")}


def test_off_measures_nothing_and_keeps_everything_valid(records: Records, inner: Inner) -> None:
    source = """
        @pytest.mark.rss_returns
        def test_leak():
            leak(10)

        def test_blocks(rssguard):
            with rssguard.returns("1MB", label="block"):
                leak(10)
            with rssguard.measure() as m:
                leak(10)
            assert (m.growth, m.held, m.retained, m.allocated) == (0, 0, 0, 0)
            assert m.outcome == "not judged"
            assert set(m.ledger.values()) == {0}
            assert "--rssguard-off" in str(m)
    """
    assert records(source, "--rssguard-off")[""]["tests"] == []
    inner(source, "--rssguard-off").assert_outcomes(passed=2)
    bad = inner("@pytest.mark.rss_returns(-1)\ndef test_bad(): pass", "--rssguard-off")
    bad.assert_outcomes(errors=1)


def test_the_scale_is_a_factor_on_every_tolerance(records: Records) -> None:
    tests = records(
        """
        @pytest.mark.rss_returns
        def test_bare():
            leak(10)

        @pytest.mark.rss_returns(tolerance="2MB")
        def test_marker():
            leak(10)

        def test_block(rssguard):
            with rssguard.returns("2MB", label="block"):
                leak(2)
        """,
        "--rssguard-tolerance-scale=2.5",
    )
    assert _seen(tests) == {"test_bare": (10, "leaked"), "test_marker": (5, "leaked"), "test_block": (5, "returned")}


def test_a_scale_wide_enough_lets_it_pass(inner: Inner) -> None:
    inner(LEAK_AND_NOTHING, "--rssguard-tolerance-scale=3").assert_outcomes(passed=2)


def test_quiet_the_report_is_one_line(inner: Inner) -> None:
    result = inner(LEAK_AND_NOTHING, "--rssguard-report", "-q")
    result.stdout.fnmatch_lines(["2 measured: 1 leaked, 1 returned"])
    result.stdout.no_fnmatch_line("*verdict*")
    result.stdout.no_fnmatch_line("=* rssguard =*")


def test_a_report_without_measured_tests_says_so(inner: Inner) -> None:
    result = inner("def test_plain(): pass", "--rssguard-report")
    result.stdout.fnmatch_lines(["no test was measured: mark one with @pytest.mark.rss_returns"])
    assert result.ret == 0


def test_without_the_option_nothing_is_added(inner: Inner) -> None:
    result = inner(LEAK_AND_NOTHING)
    result.stdout.no_fnmatch_line("*measured*")
    result.stdout.no_fnmatch_line("=* rssguard =*")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--no-header",), ("--no-summary",), ("--capture=sys",), ("-s",), ("-p", "no:logging"), ("-p", "no:cacheprovider"),
        ("-p", "no:warnings", "-p", "no:unraisableexception", "-p", "no:threadexception"), ("-p", "no:xdist"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_with_parts_of_pytest_switched_off(inner: Inner, arguments: tuple[str, ...]) -> None:
    result = inner(LEAK_AND_NOTHING, *arguments, "--rssguard-report")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["2 measured: 1 leaked, 1 returned"])
    assert not result.stderr.str()


def test_without_a_terminal(inner: Inner, pytester: pytest.Pytester) -> None:
    result = inner(LEAK_AND_NOTHING, "-p", "no:terminal", "--rssguard-report", "--rssguard-json=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.stdout.str().strip() == ""
    assert not result.stderr.str()
    assert '"outcome": "leaked"' in (pytester.path / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("argument", ["--collect-only", "--setup-plan"])
def test_where_no_test_runs_nothing_is_measured(inner: Inner, argument: str) -> None:
    result = inner(LEAK_AND_NOTHING, argument, "--rssguard-report")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_leak*", "*test_nothing*"])
    result.stdout.fnmatch_lines(["no test was measured*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_bytes_that_a_test_prints_are_not_its_own(records: Records) -> None:
    tests = records("""
        @pytest.mark.rss_returns
        def test_print():
            for _ in range(20):
                print("x" * (1 << 20))
    """)
    assert tests["test_print"]["outcome"] == "returned"


def test_help_names_every_option(inner: Inner) -> None:
    result = inner("", "--help")
    for name in ("report", "json=PATH", "off", "tolerance=SIZE", "trim", "retained=fail|warn|SIZE", "tolerance-scale=X"):
        assert f"--rssguard-{name}" in result.stdout.str()
    for name in ("tolerance", "trim", "retained", "unmeasurable"):
        assert f"rssguard_{name} (string)" in result.stdout.str()
