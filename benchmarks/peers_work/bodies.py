"""Leaks of known size, and bodies that keep nothing."""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import re
import tempfile
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]
LIBC.free.restype = None


class Store:
    """What a leak of Python objects hangs on: a chain, so that no list grows with it."""

    chain: object = None
    calls = 0


def write_calls() -> None:
    """Write down how often the body ran."""
    Path(os.environ["PEERS_CALLS"]).write_text(str(Store.calls), encoding="ascii")


atexit.register(write_calls)


def native(size: int, *, keep: bool) -> None:
    """Allocate one block of malloc's, write it, and lose or free it."""
    Store.calls += 1
    block = LIBC.malloc(size)
    ctypes.memset(block, 1, size)
    if not keep:
        LIBC.free(block)


def python(*, keep: bool) -> None:
    """Make one tuple of two: 56 bytes and 8 to 16 for the collector, in a block of 64 to 80."""
    Store.calls += 1
    found = (Store.chain, None)
    if keep:
        Store.chain = found


def work_in_threads() -> None:
    """Start and end four threads that build strings."""
    threads = [threading.Thread(target=lambda: "".join(map(str, range(5_000)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def write_file() -> None:
    """Write and read a temporary file."""
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 300_000)
        file.seek(0)
        file.read()


def free_blocks() -> None:
    """Take and free blocks of many sizes."""
    for block in [LIBC.malloc(size) for size in range(16, 40_000, 160)]:
        LIBC.free(block)


CLEAN: dict[str, Callable[[], object]] = {
    "json": lambda: json.loads(json.dumps({str(number): list(range(50)) for number in range(400)})),
    "strings": lambda: [f"{number:08d}" * 4 for number in range(20_000)],
    "dicts": lambda: [{number: str(number)} for number in range(10_000)],
    "bytearray": lambda: bytearray(3_000_000),
    "sort": lambda: sorted((str(number * 7919 % 10_007) for number in range(10_000)), reverse=True),
    "containers": lambda: (Counter("abcabc" * 3_000), OrderedDict.fromkeys(range(3_000)), deque(range(5_000))),
    "regex": lambda: re.sub(r"(\w+) (\w+)", r"\2 \1", "hello world " * 3_000),
    "threads": work_in_threads,
    "file": write_file,
    "malloc": free_blocks,
}
