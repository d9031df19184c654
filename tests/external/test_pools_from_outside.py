"""Pools of Python processes, read from outside, against the process's own sys._debugmallocstats()."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_rssguard.external import read_process
from pytest_rssguard.ledger import totals
from pytest_rssguard.model import Account

_FILL = "import sys,os; x=[str(i) for i in range(150000)]; y=[b'z'*n for n in range(600)]; del x[::3]; del x[50000:70000]; "
_TELL = "sys._debugmallocstats(); sys.stderr.flush(); os.write(2, b'told\\n'); os.read(0, 1)"


def _interpreters() -> list[str]:
    found = Path.home().glob(".pyenv/versions/3.1[123].*/bin/python")
    return sorted({os.path.realpath(sys.executable), *map(os.path.realpath, found)})


@contextmanager
def child(python: str, **environment: str) -> Iterator[tuple[int, str]]:
    """A Python process at rest, and what it last said of its pools."""
    process = subprocess.Popen(
        [python, "-I" if not environment else "-s", "-c", _FILL + _TELL],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stderr is not None
    text = ""
    while not text.endswith("told\n"):
        line = process.stderr.readline().decode()
        assert line, "the child ended"
        text += line
    try:
        yield process.pid, text
    finally:
        process.communicate(b"x")


@pytest.mark.parametrize("python", _interpreters(), ids=lambda path: Path(path).parent.parent.name)
def test_pools_are_what_the_child_says(python: str) -> None:
    with child(python) as (pid, text):
        snapshot, census = read_process(pid, stop=True)
        accounts = totals(snapshot, census)
    pools = census.pools
    assert pools is not None
    assert census.problems == ()
    assert sum(size or 0 for size in accounts.values()) == snapshot.rss
    rows = [list(map(int, row)) for row in re.findall(r"^ +\d+ +(\d+) +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE)]
    said_pools, said_blocks = sum(row[1] for row in rows), sum(row[2] for row in rows)
    assert said_pools > 100
    # printing its statistics and going to sleep makes and drops a few objects of its own
    assert abs(pools.used - said_pools) <= 1
    assert abs(pools.live_blocks - said_blocks) <= 16
    said_bytes = sum(row[0] * row[2] for row in rows)
    assert abs((accounts[Account.PYTHON_LIVE] or 0) - said_bytes) <= 16 * 512


def test_python_without_pymalloc_has_no_pools_and_its_heap_closes() -> None:
    with child(sys.executable, PYTHONMALLOC="malloc") as (pid, _):
        snapshot, census = read_process(pid, stop=True)
        accounts = totals(snapshot, census)
    assert census.problems == ()
    assert accounts[Account.PYTHON_LIVE] == 0
    assert accounts[Account.POOL_FREE] == 0
    assert (accounts[Account.MALLOC_LIVE] or 0) > 4 << 20
    assert sum(size or 0 for size in accounts.values()) == snapshot.rss
