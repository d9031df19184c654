"""The census of Python processes from outside, against what each says of its own pymalloc."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_rssguard import ledger
from pytest_rssguard.external import read_process
from pytest_rssguard.model import Account

#: Makes objects of many sizes, frees most, says what pymalloc holds (stderr), and then sleeps in a read.
CHILD = """
import os, sys
kept = [(i, str(i) * (i % 20)) for i in range(60_000)]
gone = [[i] for i in range(100_000)]
some = gone[::50]
del gone
import gc
gc.collect()
gc.disable()
os.write(1, b"ready\\n")
sys._debugmallocstats()
os.write(2, b"the end\\n")
os.read(0, 1)
"""
CLASS = re.compile(r"^ +\d+ +(\d+) +(\d+) +(\d+) +\d+$", re.MULTILINE)
ARENAS = re.compile(r"^# arenas allocated current += +([\d,]+)$", re.MULTILINE)


def interpreters() -> list[str]:
    """Return this interpreter, and those of 3.11 to 3.13 that pyenv has installed."""
    found = [sys.executable]
    for version in ("3.11", "3.12", "3.13"):
        found += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")))
    return found


@contextmanager
def child(python: str, **environment: str) -> Iterator[tuple[int, str]]:
    """Yield the pid of a Python child and what it says of its pymalloc."""
    process = subprocess.Popen(
        [python, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}, **environment},
    )
    assert process.stderr is not None
    text = b""
    while not text.endswith(b"the end\n"):
        piece = os.read(process.stderr.fileno(), 65536)
        assert piece, "the child ended"
        text += piece
    try:
        yield process.pid, text.decode()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("python", interpreters())
def test_pools_and_blocks_are_those_that_the_child_counts_itself(python: str) -> None:
    with child(python) as (pid, text):
        snapshot, census = read_process(pid)
    assert census.problems == ()
    assert census.pools is not None
    classes = [(int(size), int(pools), int(blocks)) for size, pools, blocks in CLASS.findall(text)]
    arenas = ARENAS.search(text)
    assert arenas is not None
    assert census.pools.used == sum(pools for _, pools, _ in classes)
    # one block more: the bytes object of one byte that its os.read has made ready
    assert census.pools.live_blocks == sum(blocks for _, _, blocks in classes) + 1
    assert census.pools.live == sum(size * blocks for size, _, blocks in classes) + 48
    assert census.pools.arenas == int(arenas[1].replace(",", ""))
    accounts = ledger.totals(snapshot, census)
    assert sum(size or 0 for size in accounts.values()) == snapshot.rss
    assert accounts[Account.PYTHON_LIVE] == census.pools.live


def test_a_child_whose_objects_come_from_malloc_has_no_pools() -> None:
    with child(sys.executable, PYTHONMALLOC="malloc") as (pid, _):
        snapshot, census = read_process(pid)
    assert census.problems == ()
    accounts = ledger.totals(snapshot, census)
    assert sum(size or 0 for size in accounts.values()) == snapshot.rss
    assert accounts[Account.PYTHON_LIVE] == 0
    # 60,000 tuples of two, and as many texts and ints, at their least in malloc's chunks
    assert (accounts[Account.MALLOC_LIVE] or 0) >= 60_000 * (64 + 48 + 32)
