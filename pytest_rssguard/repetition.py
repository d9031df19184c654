"""Whether a test's body can run more than once in one test: most can, by `item.runtest()` again."""

from __future__ import annotations

import unittest

import pytest


def why_not_repeatable(item: pytest.Item) -> str:
    """Return why the body of `item` cannot run again, or ""."""
    owner = getattr(item, "cls", None)
    if isinstance(owner, type) and issubclass(owner, unittest.IsolatedAsyncioTestCase):
        return "unittest.IsolatedAsyncioTestCase starts its event loop once"
    if "benchmark" in getattr(item, "fixturenames", ()):
        return "the fixture benchmark of pytest-benchmark can be used once"
    if isinstance(item, pytest.DoctestItem):
        return "a doctest's names are gone after its first run"
    return ""
