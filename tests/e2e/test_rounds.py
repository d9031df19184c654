"""Rounds, warm-ups, waiting, whole tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Inner = Callable[..., pytest.RunResult]
Records = Callable[..., dict[str, Any]]
MIB = 1 << 20


def test_at_no_tolerance_a_few_bytes_a_round_are_found_and_clean_bodies_pass(inner: Inner, records: Records) -> None:
    source = """
        import json

        pytestmark = pytest.mark.rss_returns(tolerance=0, rounds=5)
        kept = []

        def test_sixteen_bytes():
            libc.malloc(16)

        def test_two_kib():
            block(2048)

        def test_one_object():
            kept.append(object())

        def test_nothing():
            pass

        def test_clean(tmp_path):
            found = json.loads(json.dumps([{"a": number} for number in range(1000)]))
            (tmp_path / "file").write_text("x" * 1000, encoding="utf-8")
            assert len(found) == 1000

        def test_given_back():
            churn(1)
            libc.free(libc.malloc(16))
    """
    tests = records(source)
    del tests[""]
    assert {name: record["outcome"] for name, record in tests.items()} == {
        "test_sixteen_bytes": "leaked",
        "test_two_kib": "leaked",
        "test_one_object": "leaked",
        "test_nothing": "returned",
        "test_clean": "returned",
        "test_given_back": "returned",
    }
    assert tests["test_sixteen_bytes"]["held"] == 32  # the smallest chunk
    assert tests["test_two_kib"]["held"] == 2064
    assert tests["test_one_object"]["held"] == 16
    assert all(len(record["rounds"]) == 5 for record in tests.values())
    shown = inner(source).stdout
    # malloc may once take a hole of 2,080 bytes, whose rest would be no chunk: "2,064 B in 1 block at least, 2,080 at most"
    shown.fnmatch_lines(["rounds    every one of 5 rounds leaked*2,064 B in 1 block*"])


def test_what_only_the_first_round_costs_is_no_leak(records: Records) -> None:
    tests = records("""
        kept = []

        @pytest.mark.rss_returns(rounds=3)
        def test_first_use():
            if not kept:
                kept.append(leak(13))

        @pytest.mark.rss_returns(warmup=1)
        def test_warmed_up():
            if len(kept) < 2:
                kept.append(leak(13))

        @pytest.mark.rss_returns(rounds=3)
        def test_leak():
            leak(10)
    """)
    assert tests["test_first_use"]["outcome"] == "returned"
    assert tests["test_first_use"]["hints"] == ["round 1 +13.0 MiB, then +0 B: first-use cost, not a leak"]
    assert tests["test_warmed_up"]["outcome"] == "returned"
    assert len(tests["test_warmed_up"]["rounds"]) == 1
    leaked = tests["test_leak"]
    assert leaked["outcome"] == "leaked"
    assert all(10 * MIB <= each["held"] <= 10 * MIB + 65536 for each in leaked["rounds"])
    assert leaked["growth"] == sum(size or 0 for size in leaked["accounts"].values())


def test_every_round_retains(records: Records) -> None:
    tests = records("""
        @pytest.mark.rss_returns(rounds=3)
        def test_new_memory_each_time():
            pin(12)

        @pytest.mark.rss_returns(rounds=3)
        def test_the_same_memory_each_time():
            retain(12)
    """)
    # half of what pin() takes stays in use: a leak
    assert tests["test_new_memory_each_time"]["outcome"] == "leaked"
    # the free pages of the first round are there for the second: RSS grows no more
    assert tests["test_the_same_memory_each_time"]["outcome"] == "returned"
    assert tests["test_the_same_memory_each_time"]["rounds"][0]["retained"] > 11 * MIB


def test_a_failure_in_a_later_round_is_its_own_and_names_the_round(inner: Inner, records: Records) -> None:
    source = """
        import unittest

        runs = []

        @pytest.mark.rss_returns(rounds=5)
        def test_fails():
            runs.append(1)
            assert len(runs) < 3, "third time"

        @pytest.mark.rss_returns(rounds=3)
        def test_skips():
            runs.append(1)
            if len(runs) > 4:
                pytest.skip("not now")

        class TestCase(unittest.TestCase):
            @pytest.mark.rss_returns(rounds=3)
            def test_unit(self):
                runs.append(1)
                self.assertLess(len(runs), 7)
    """
    result = inner(source)
    result.assert_outcomes(failed=2, skipped=1)
    result.stdout.fnmatch_lines(["*AssertionError: third time*", "*rssguard: in round 3 of 5*"])
    tests = records(source)
    assert tests["test_fails"]["outcome"] == "not judged"
    assert tests["test_fails"]["message"] == "not judged: AssertionError in round 3 of 5"
    assert tests["test_skips"]["message"] == "not judged: Skipped in round 2 of 3"
    assert tests["test_unit"]["outcome"] == "not judged"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            """
            import unittest

            class TestLoop(unittest.IsolatedAsyncioTestCase):
                @pytest.mark.rss_returns(rounds=3)
                async def test_rounds(self):
                    pass
            """,
            "*rounds=3: expected 1 for this test; it cannot run twice: unittest.IsolatedAsyncioTestCase*",
        ),
        (
            """
            @pytest.fixture
            def benchmark():
                return None

            @pytest.mark.rss_returns(warmup=1)
            def test_benchmark(benchmark):
                pass
            """,
            "*warmup=1: expected 0 for this test; it cannot run twice: the fixture benchmark*",
        ),
    ],
)
def test_what_cannot_run_twice_is_refused_at_collection(inner: Inner, source: str, told: str) -> None:
    result = inner(source)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([f"test_inner.py:{told}"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    once = source.replace("(rounds=3)", "").replace("(warmup=1)", "")
    inner(once, "--rssguard-rounds=3").assert_outcomes(passed=1)


def test_rounds_from_ini_and_command_line(records: Records, pytester: pytest.Pytester) -> None:
    source = """
        @pytest.mark.rss_returns
        def test_default():
            pass

        @pytest.mark.rss_returns(rounds=2)
        def test_marker():
            pass
    """
    pytester.makeini("[pytest]\nrssguard_rounds = 3\nrssguard_warmup = 1\nrssguard_within = 0.5\n")
    assert [len(records(source)[name]["rounds"]) for name in ("test_default", "test_marker")] == [3, 2]
    assert len(records(source, "--rssguard-rounds=4")["test_default"]["rounds"]) == 4


def test_what_a_thread_frees_soon_after_is_waited_for(records: Records) -> None:
    tests = records("""
        import threading, time

        def late(seconds):
            pointer = block(20 * MB)
            threading.Timer(seconds, libc.free, [pointer]).start()

        @pytest.mark.rss_returns(within=20)
        def test_waits():
            late(0.3)

        @pytest.mark.rss_returns
        def test_does_not_wait():
            late(2)

        @pytest.mark.rss_returns(within=0.2)
        def test_leak():
            leak(10)
    """)
    assert tests["test_waits"]["outcome"] == "returned"
    assert tests["test_does_not_wait"]["outcome"] == "leaked"
    assert tests["test_leak"]["outcome"] == "leaked"


def test_a_whole_test_is_measured_with_its_fixtures(inner: Inner, records: Records) -> None:
    source = """
        pytestmark = pytest.mark.rss_returns(scope="test")

        @pytest.fixture
        def value():
            return bytearray(40 * MB)

        @pytest.fixture
        def given_back():
            pointer = block(10 * MB)
            yield
            libc.free(pointer)

        @pytest.fixture
        def lost():
            leak(10)

        @pytest.fixture
        def lost_at_the_end():
            yield
            leak(10)

        @pytest.fixture
        def broken():
            raise RuntimeError("no")

        def test_value(value):
            pass

        def test_given_back(given_back):
            pass

        def test_lost(lost):
            pass

        def test_lost_at_the_end(lost_at_the_end):
            pass

        def test_fails():
            leak(10)
            raise AssertionError("own")

        def test_broken(broken):
            pass
    """
    tests = records(source)
    assert {name: record["outcome"] for name, record in tests.items() if name} == {
        "test_value": "returned",
        "test_given_back": "returned",
        "test_lost": "leaked",
        "test_lost_at_the_end": "leaked",
        "test_fails": "not judged",
        "test_broken": "not judged",
    }
    result = inner(source)
    result.assert_outcomes(passed=4, failed=1, errors=3)
    result.stdout.fnmatch_lines(["ERROR test_inner.py::test_lost - RssLeak: [19]*.[09]* MiB leaked*"])


def test_a_whole_test_cannot_be_asked_for_once_setup_has_begun(inner: Inner) -> None:
    result = inner("""
        @pytest.fixture(autouse=True)
        def added(request):
            request.node.add_marker(pytest.mark.rss_returns(scope="test"))

        def test_late():
            raise AssertionError("must not run")
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_inner.py:8: rss_returns: scope='test' was set after setup began: *"])
    result.stdout.no_fnmatch_line("*must not run*")
