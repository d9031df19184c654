"""What every test of the plugin needs: pytester, and a module of native memory faults for the tests inside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

import pytest

pytest_plugins = ["pytester"]

#: The module that inner tests import. Blocks come from malloc itself, so Python's own allocator plays no part.
NATIVE: Final = '''
import ctypes

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.free.restype = None
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.memset.restype = ctypes.c_void_p
MB = 1 << 20


def block(size):
    """A touched block of malloc's."""
    pointer = libc.malloc(size)
    assert pointer
    libc.memset(pointer, 1, size)
    return pointer


def leak(megabytes):
    """Lose one block."""
    return block(megabytes * MB)


def retain(megabytes):
    """Free many blocks below one of the same size that stays: whole free pages, which malloc keeps."""
    blocks = [block(65536) for _ in range(megabytes * 16)]
    plug = block(65536)
    for pointer in blocks:
        libc.free(pointer)
    return plug


def pin(megabytes):
    """Free all but every second of many small blocks: free bytes on pages that nothing can give back."""
    pairs = [(block(1000), block(1000)) for _ in range(megabytes * 1000)]
    for pointer, _ in pairs:
        libc.free(pointer)


def fill(megabytes):
    """Lose small blocks, such as fit where `pin` made room."""
    for _ in range(megabytes * 1000):
        block(1000)


def churn(megabytes):
    """Take one block and give it back at once."""
    libc.free(block(megabytes * MB))
'''

Inner = Callable[..., pytest.RunResult]
Records = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as on a desk: what CI services set changes what the gate writes and where reports link to."""
    for name in [name for name in os.environ if name == "CI" or name.startswith(("GITHUB_", "GITLAB_", "CI_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def native(pytester: pytest.Pytester) -> None:
    """Put the module of memory faults into the test's folder."""
    pytester.makepyfile(native=NATIVE)


@pytest.fixture
def inner(pytester: pytest.Pytester, native: None, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """Write the given source as test_inner.py and run it in a fresh pytest process, with the arguments that follow."""
    del native
    monkeypatch.setenv("COLUMNS", "160")

    def run(source: str, *args: str | Path) -> pytest.RunResult:
        pytester.path.joinpath("test_inner.py").write_text("from native import *\nimport pytest\n" + dedent(source))
        return pytester.runpytest_subprocess(*args)

    return run


@pytest.fixture
def records(inner: Inner, pytester: pytest.Pytester) -> Records:
    """Run as `inner` does and return the records of the JSON report by test name; "" is the whole report."""

    def run(source: str, *args: str | Path) -> dict[str, Any]:
        path = pytester.path / "report.json"
        inner(source, f"--rssguard-json={path}", *args)
        report = json.loads(path.read_text(encoding="utf-8"))
        return {"": report, **{record["nodeid"].rpartition("::")[2]: record for record in report["tests"]}}

    return run
