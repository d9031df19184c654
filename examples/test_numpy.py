"""numpy: a view of ten numbers keeps an array of 76 MiB alive."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rssguard import RssLeak

np = pytest.importorskip("numpy")

_results: list[Any] = []


@pytest.mark.xfail(raises=RssLeak, strict=True, reason="shows the failure: the view keeps the whole array")
@pytest.mark.rss_returns("4MB")
def test_keep_a_view() -> None:
    """A slice refers to the array that it was cut from: all of it stays."""
    samples = np.ones(10_000_000)
    _results.append(samples[:10])


@pytest.mark.rss_returns("4MB")
def test_keep_a_copy() -> None:
    """A copy stands alone: the array goes, and with it its memory.

    malloc maps a block over 32 MiB by itself and unmaps it when it is freed, so such memory always returns at once.
    """
    samples = np.ones(10_000_000)
    _results.append(samples[:10].copy())
