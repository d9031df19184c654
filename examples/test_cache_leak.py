"""A real leak: a cache without a limit. The same code with a limit passes."""

from __future__ import annotations

from functools import lru_cache

import pytest

from pytest_rssguard import RssLeak


def render(page: int) -> str:
    """Return some 100 KiB of text."""
    return f"<li>{page}</li>\n" * 7_000


cached_for_ever = lru_cache(maxsize=None)(render)
cached = lru_cache(maxsize=8)(render)


@pytest.mark.xfail(raises=RssLeak, strict=True, reason="shows the failure: the cache keeps every page")
@pytest.mark.rss_returns("4MB", reason="a request may not make the server grow")
def test_cache_without_limit() -> None:
    """Every page stays in the cache: some 10 MiB are live after the body, and RssLeak says so."""
    for page in range(100):
        assert cached_for_ever(page)


@pytest.mark.rss_returns("4MB", trim=True, reason="a request may not make the server grow")
def test_cache_with_limit() -> None:
    """Eight pages stay, within the tolerance."""
    for page in range(100):
        assert cached(page)
