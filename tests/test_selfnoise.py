"""What the guard itself adds to a test that does nothing: nothing."""

from __future__ import annotations

import json
import sys

import pytest

TESTS = """
import logging
import pytest

@pytest.mark.parametrize("number", range(500))
@pytest.mark.rss_returns
def test_nothing(number):
    pass

@pytest.mark.parametrize("number", range(60))
@pytest.mark.rss_returns
def test_typical(number, tmp_path, caplog, capsys):
    (tmp_path / "a").write_text("x" * 100)
    print("hello")
    logging.getLogger("a").warning("number %s", number)
    capsys.readouterr()
"""


def test_guarded_tests_that_do_nothing_grow_by_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    pytester.runpytest_subprocess("-q", "--rssguard-json=out.json").assert_outcomes(passed=560)
    tests = json.loads((pytester.path / "out.json").read_text())["tests"]
    idle = [test for test in tests if "::test_nothing[" in test["nodeid"]]
    typical = [test for test in tests if "::test_typical[" in test["nodeid"]]
    assert sum(test["growth"] == 0 for test in idle) >= 0.99 * len(idle)
    assert max(test["growth"] for test in idle) <= 8192
    # 3.12 starts with frozen objects: its free lists cannot be emptied cheaply (docs/design.md), 800 B at most stay
    most = 800 if sys.version_info[:2] == (3, 12) else 0
    assert all(test["held"] <= most for test in idle[10:])
    assert max(test["growth"] for test in typical[1:]) <= 64 * 1024
