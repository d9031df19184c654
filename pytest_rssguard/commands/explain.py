"""`pytest-rssguard explain PID`: what memory a running process holds, and what it only retains."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from pytest_rssguard import portrait, private
from pytest_rssguard.external import Progress, read_name, read_process, read_statm
from pytest_rssguard.model import Account

NAME: Final = "explain"
SUMMARY: Final = "say of a running process what memory it holds and what it only retains, page by page"
#: pid_max cannot be larger (Linux, include/linux/threads.h, PID_MAX_LIMIT).
_PID_MOST: Final = 1 << 22
#: Seconds that a read may take in silence.
_QUIET: Final = 0.5
#: Libraries are searched for allocators of their own only if as much memory is of unknown owner.
_WORTH: Final = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to `parser`."""
    parser.add_argument("pid", metavar="PID", type=_pid, help="number of a process of yours (of any user for root)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text; sizes in bytes")
    parser.add_argument("--stop", action="store_true", help="stop the process (SIGSTOP) while it is read, then let it go on")


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 10 and 0 < int(text) <= _PID_MOST):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: expected the number of a process, 1 to {_PID_MOST}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Read the process and print it; return 0, also where part of it could not be told apart (the text says so)."""
    pid = int(arguments.pid)
    name = read_name(pid)
    columns = shutil.get_terminal_size((80, 24)).columns
    started = time.perf_counter()
    with _ends_by_exception(), _progress(pid) as progress:
        snapshot, census = read_process(pid, stop=arguments.stop, draw=True, progress=progress)
    seconds = time.perf_counter() - started
    found = portrait.Portrait(
        pid=pid, name=name, snapshot=snapshot, census=census, ps_rss=read_statm(pid), stopped=arguments.stop, seconds=seconds
    )
    if (found.accounts[Account.MAPPED] or 0) + (found.accounts[Account.UNEXPLAINED] or 0) > _WORTH:
        libraries = tuple(private.find_private_allocators(snapshot.mappings, interpreter_uses_mimalloc=False))
        found = portrait.with_private(found, libraries)
    if arguments.json:
        print(json.dumps(portrait.to_json(found)))  # noqa: T201 - a command's own output
    else:
        for line in portrait.lines(found, columns=columns):
            print(line)  # noqa: T201 - as above
    return 0


@contextmanager
def _ends_by_exception() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise SystemExit meanwhile: a stopped process must be let go on before we end."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    old = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _progress(pid: int) -> Iterator[Progress | None]:
    """Yield what shows the progress of a long read on a terminal (stderr), or None where there is none."""
    if not sys.stderr.isatty():
        yield None
        return
    started, last, shown = time.monotonic(), 0.0, False

    def tell(done: int, total: int, number: int) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if now - started < _QUIET or now - last < 0.1:
            return
        last, shown = now, True
        again = f", try {number}: it ran meanwhile" if number > 1 else ""
        sys.stderr.write(f"\rreading process {pid}: {100 * done // max(total, 1)} %{again}\033[K")
        sys.stderr.flush()

    try:
        yield tell
    finally:
        if shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
