"""What each tool does to a test: the fixtures of the naive ones, the markers of the plugins."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Iterator

import psutil
import pytest

TOOL = os.environ["PEERS_TOOL"]
_LIMIT = {"64KB": 64 << 10, "0": 0}.get(os.environ.get("PEERS_TOLERANCE", ""), 4 << 20)


@pytest.fixture(autouse=True)
def naive() -> Iterator[None]:
    """Compare RSS, or what tracemalloc counts, before and after the test."""
    if TOOL == "naive RSS":
        gc.collect()
        before = psutil.Process().memory_info().rss
        yield
        gc.collect()
        grown = psutil.Process().memory_info().rss - before
        if grown > _LIMIT:
            pytest.fail(f"RSS grew by {grown:,} B")
    elif TOOL == "tracemalloc":
        tracemalloc.start()
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0]
        yield
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - traced
        tracemalloc.stop()
        if grown > _LIMIT:
            pytest.fail(f"traced memory grew by {grown:,} B")
    else:
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Know the markers of the plugins that are switched off."""
    for name in ("rss_returns", "limit_leaks"):
        config.addinivalue_line("markers", f"{name}: of a plugin that this run does not use")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test for the tool in use."""
    for item in items:
        if TOOL == "rssguard, every test marked":
            tolerance = os.environ.get("PEERS_TOLERANCE", "4MB")
            rounds = int(os.environ.get("PEERS_ROUNDS", "5")) if tolerance == "0" else 1
            item.add_marker(pytest.mark.rss_returns(tolerance=tolerance, rounds=rounds))
        elif TOOL == "pytest-memray" and _LIMIT != 4 << 20:
            item.add_marker(pytest.mark.limit_leaks(f"{max(_LIMIT, 1)} B"))
        elif TOOL == "pytest-memray" and "PEERS_PATTERN" in os.environ:
            item.add_marker(pytest.mark.limit_leaks("1 MB"))
