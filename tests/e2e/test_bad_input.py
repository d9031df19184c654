"""Bad input: one clear line that says what was given and what is accepted, before any test runs, never a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

Inner = Callable[..., pytest.RunResult]

#: The marker's arguments, and what the one line must say behind "file:line: rss_returns: ".
BAD_MARKERS: Final = {
    'tolerance="4 parsecs"': "tolerance='4 parsecs': expected a size such as \"4MB\"",
    "tolerance=-1": "tolerance=-1: expected a size such as",
    'tolerance="-4MB"': "tolerance='-4MB': expected a size such as",
    "tolerance=True": "tolerance=True: expected a size such as",
    "tolerance=4.5": "tolerance=4.5: expected a size such as",
    'tolerance="x" * 5000': "tolerance='xxxx",
    "tolerence=1": "unknown argument 'tolerence', did you mean 'tolerance'? Valid: tolerance, trim, retained",
    "wibble=1": "unknown argument 'wibble'. Valid: tolerance, trim, retained",
    '"1MB", "2MB"': "rss_returns=('1MB', '2MB'): expected one positional argument, the tolerance",
    '"1MB", tolerance="2MB"': "tolerance='1MB': expected to be given once",
    'retained="maybe"': 'retained=\'maybe\': expected "fail", "warn", or a size',
    "retained=-1": 'retained=-1: expected "fail", "warn", or a size',
    "retained=True": 'retained=True: expected "fail", "warn", or a size',
    'trim="perhaps"': "trim='perhaps': expected True or False",
    "trim=2": "trim=2: expected True or False",
    "reason=1": "reason=1: expected a text",
    "rounds=0": "rounds=0: expected a whole number from 1 to 10000",
    "warmup=-1": "warmup=-1: expected a whole number from 0 to 10000",
    "within='soon'": "within='soon': expected seconds from 0 to 3600",
    'scope="galaxy"': "scope='galaxy': expected \"body\"",
    'scope="test", rounds=2': 'rounds=2: expected 1 with scope="test"',
    "tolerance=0, rounds=2": "tolerance=0: expected more than 0 bytes, or rounds=3 or more with it",
    "rounds=True": "rounds=True: expected a whole number",
}
OPTIONS: Final = (
    ("--rssguard-tolerance=4 parsecs", "--rssguard-tolerance='4 parsecs': expected a size such as"),
    ("--rssguard-tolerance=-1", "--rssguard-tolerance='-1': expected a size such as"),
    ("--rssguard-retained=maybe", '--rssguard-retained=\'maybe\': expected "fail", "warn", or a size'),
    ("--rssguard-tolerance-scale=0", "--rssguard-tolerance-scale='0': expected a factor over 0"),
    ("--rssguard-tolerance-scale=nan", "--rssguard-tolerance-scale='nan': expected a factor over 0"),
    ("--rssguard-tolerance-scale=big", "--rssguard-tolerance-scale='big': expected a factor over 0"),
)
INI: Final = (
    ("rssguard_tolerance = 4 parsecs", "ini rssguard_tolerance='4 parsecs': expected a size such as"),
    ("rssguard_trim = perhaps", "ini rssguard_trim='perhaps': expected True or False"),
    ("rssguard_retained = maybe", 'ini rssguard_retained=\'maybe\': expected "fail", "warn", or a size'),
    ("rssguard_rounds = many", "ini rssguard_rounds='many': expected a whole number from 1 to 10000"),
    ("rssguard_warmup = -1", "ini rssguard_warmup='-1': expected a whole number from 0"),
    ("rssguard_within = soon", "ini rssguard_within='soon': expected seconds"),
    ("rssguard_all = perhaps", "ini rssguard_all='perhaps': expected True or False"),
    ("rssguard_judge_all = perhaps", "ini rssguard_judge_all='perhaps': expected True or False"),
    ("rssguard_unmeasurable = shrug", "ini rssguard_unmeasurable='shrug': expected warn, fail or skip"),
)
LATER_OPTIONS: Final = ("--rssguard-isolate", "--rssguard-why")


def _told(result: pytest.RunResult) -> list[str]:
    return sorted(line for line in result.outlines if re.match(r"test_\d+\.py:\d+: ", line))


def test_a_bad_marker_is_one_collection_error_alone_and_under_xdist(pytester: pytest.Pytester) -> None:
    for number, arguments in enumerate(BAD_MARKERS):
        pytester.path.joinpath(f"test_{number:02}.py").write_text(
            f"import pytest\n\n@pytest.mark.rss_returns({arguments})\ndef test_bad():\n    print('ran')\n", encoding="utf-8"
        )
    alone = pytester.runpytest_subprocess()
    told = _told(alone)
    assert len(told) == len(BAD_MARKERS)
    for number, (line, expected) in enumerate(zip(told, BAD_MARKERS.values(), strict=True)):
        assert line.startswith(f"test_{number:02}.py:3: rss_returns: {expected}")
        assert len(line) < 400
    alone.assert_outcomes(errors=len(BAD_MARKERS))
    assert alone.ret == pytest.ExitCode.INTERRUPTED
    spread = pytester.runpytest_subprocess("-n2")
    assert _told(spread) == told
    spread.assert_outcomes(errors=len(BAD_MARKERS))
    assert spread.ret == pytest.ExitCode.TESTS_FAILED
    for result in (alone, spread):
        result.stdout.no_fnmatch_line("*INTERNALERROR*")
        result.stdout.no_fnmatch_line("*Traceback*")
        assert "Traceback" not in result.stderr.str()


def test_a_bad_marker_on_a_class_or_module_is_told_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_00="""
            import pytest

            pytestmark = pytest.mark.rss_returns(tolerance="4 parsecs")

            def test_one():
                pass

            class TestClass:
                def test_two(self):
                    pass
        """,
        test_01="""
            import pytest

            @pytest.mark.rss_returns(tolerance="4 parsecs")
            class TestClass:
                def test_one(self):
                    pass

                @pytest.mark.parametrize("number", range(3))
                def test_two(self, number):
                    pass
        """,
        test_02="""
            import pytest

            @pytest.mark.parametrize("number", range(3))
            @pytest.mark.rss_returns(tolerance="4 parsecs")
            def test_many(number):
                pass
        """,
    )
    alone = pytester.runpytest_subprocess()
    assert [line.partition(":")[0] for line in _told(alone)] == ["test_00.py", "test_01.py", "test_02.py"]
    assert alone.ret == pytest.ExitCode.INTERRUPTED
    spread = pytester.runpytest_subprocess("-n2")
    assert _told(spread) == _told(alone)
    assert spread.ret == pytest.ExitCode.TESTS_FAILED


def test_neutral_values_of_what_is_not_yet_available_are_accepted(inner: Inner) -> None:
    inner("""
        @pytest.mark.rss_returns(rounds=1, warmup=0, within=0, scope="body")
        def test_nothing():
            pass
    """).assert_outcomes(passed=1)


def test_other_files_of_a_run_are_still_collected(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_00="import pytest\n\n@pytest.mark.rss_returns(-1)\ndef test_bad(): pass\n",
        test_01="def test_good(): pass\n",
    )
    result = pytester.runpytest_subprocess("--continue-on-collection-errors")
    result.assert_outcomes(passed=1, errors=1)


def _usage_error(result: pytest.RunResult, expected: str) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = [line for line in result.errlines if line]
    assert len(told) == 1, told
    assert told[0].startswith(f"ERROR: {expected}")
    everything = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in everything
    assert "INTERNALERROR" not in everything
    assert "must not run" not in everything


@pytest.fixture
def one_test(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run a test that must not run."""
    pytester.makepyfile("def test_one():\n    raise AssertionError('must not run')")
    return pytester.runpytest_inprocess


@pytest.mark.parametrize(("option", "expected"), OPTIONS)
def test_a_bad_option_is_a_usage_error(one_test: Inner, option: str, expected: str) -> None:
    _usage_error(one_test(option), expected)


@pytest.mark.parametrize(("line", "expected"), INI)
def test_a_bad_ini_value_is_a_usage_error(one_test: Inner, pytester: pytest.Pytester, line: str, expected: str) -> None:
    pytester.makeini(f"[pytest]\n{line}\n")
    _usage_error(one_test(), expected)


@pytest.mark.parametrize("option", LATER_OPTIONS)
def test_an_option_that_is_not_yet_available_is_a_usage_error(one_test: Inner, option: str) -> None:
    _usage_error(one_test(option), f"{option.partition('=')[0]}: not yet available")


@pytest.mark.parametrize("arguments", [("--rssguard-tolerance=4 parsecs",), ("--rssguard-retained=maybe", "-n2")])
def test_a_bad_option_in_a_process_of_its_own(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile("def test_one():\n    raise AssertionError('must not run')")
    _usage_error(pytester.runpytest_subprocess(*arguments), arguments[0].partition("=")[0])


def test_a_json_path_that_cannot_be_written_is_a_usage_error(one_test: Inner, pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("folder")
    pytester.makefile(".txt", file="")
    for path in (folder, pytester.path / "file.txt" / "report.json", Path("/proc/none/report.json")):
        _usage_error(one_test(f"--rssguard-json={path}"), f"--rssguard-json={path}: cannot be written (")
    assert list(folder.iterdir()) == []


def test_a_json_path_that_cannot_be_written_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one():\n    raise AssertionError('must not run')")
    result = pytester.runpytest_subprocess("--rssguard-json=/proc/none/report.json", "-n2")
    _usage_error(result, "--rssguard-json=/proc/none/report.json: cannot be written (")


def test_bad_arguments_of_a_block_name_the_argument(inner: Inner) -> None:
    result = inner("""
        def test_tolerance(rssguard):
            with pytest.raises(ValueError, match="tolerance='4 parsecs': expected a size"):
                rssguard.returns("4 parsecs")

        def test_retained(rssguard):
            with pytest.raises(ValueError, match="retained='maybe': expected"):
                rssguard.returns(retained="maybe")

        def test_label(rssguard):
            with pytest.raises(ValueError, match="label=3: expected a text"):
                rssguard.measure(label=3)

        def test_census(rssguard):
            with pytest.raises(ValueError, match="census='yes': expected True or False"):
                rssguard.measure(census="yes")

        def test_unknown(rssguard):
            with pytest.raises(TypeError):
                rssguard.returns(tolerence=1)
    """)
    result.assert_outcomes(passed=5)
