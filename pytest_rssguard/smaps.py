"""Parse the kernel's text about a process's memory: smaps, statm, task/TID/syscall.

Pure: bytes in, values out; nothing here opens a file. Source: Documentation/filesystems/proc.rst, "smaps" and "statm".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.model import Region

#: A line of addresses, and up to 64 lines of fields, which begin with a capital letter (there are 25 in Linux 6.18).
_MAPPING: Final = re.compile(rb"([^\n]*)((?:\n[A-Z][^\n]*){0,64})\n?")
_FIELDS: Final = (b"\nRss:", b"\nAnonymous:", b"\nLazyFree:", b"\nAnonHugePages:")
#: A line of addresses holds a path of at most 4,096 bytes, of which each may be written as four ("\\012").
_TEXT_MOST: Final = 1 << 15


def parse_smaps(text: memoryview) -> Iterator[Region]:
    """Yield one Region per mapping of an smaps text. Sizes in bytes. Raises UnreadableError on anything else.

    Copies the text of one mapping at a time: a list of all lines of a large smaps would be a block over 64 KiB, and freeing
    that changes glibc's thresholds in the guarded program (docs/design.md, "Hot and cold").
    """
    for found in _MAPPING.finditer(text):
        if found.end() - found.start() > _TEXT_MOST:
            raise UnreadableError(f"smaps: a mapping of more than {_TEXT_MOST} bytes of text")
        line, fields = found.groups()
        if line or fields:
            yield _region(line, fields)


def _region(line: bytes, fields: bytes) -> Region:
    start, end, perms, offset, inode, path = _header(line)
    sizes = []
    for name in _FIELDS:
        at = fields.find(name)
        if at < 0:
            sizes.append(0)
            continue
        stop = fields.find(b"\n", at + 1)
        field = fields[at + 1 : stop if stop >= 0 else None]
        sizes.append(_kilobytes(field[len(name) - 1 :], field))
    if _FIELDS[0] not in fields:
        raise UnreadableError(f"smaps: mapping {start:x}-{end:x} has no Rss line (text cut short?)")
    rss, anonymous, lazy, huge = sizes
    return Region(
        start=start, end=end, perms=perms, offset=offset, inode=inode, path=path, rss=rss, anonymous=anonymous,
        lazy_free=lazy, huge=huge,
    )  # fmt: skip


def _kilobytes(rest: bytes, line: bytes) -> int:
    try:
        number, unit = rest.split()
        value = int(number)
    except ValueError:
        raise UnreadableError(f"smaps: no size in line {line[:80]!r}") from None
    if unit != b"kB" or value < 0:
        raise UnreadableError(f"smaps: no size in line {line[:80]!r}")
    return value * 1024


def _header(line: bytes) -> tuple[int, int, str, int, int, str]:
    fields = line.split(None, 5)
    try:
        start, end = (int(part, 16) for part in fields[0].split(b"-"))
        perms, offset, inode = fields[1].decode("ascii"), int(fields[2], 16), int(fields[4])
    except (ValueError, IndexError):
        raise UnreadableError(f"smaps: no mapping in line {line[:80]!r}") from None
    if not start < end:
        raise UnreadableError(f"smaps: no mapping in line {line[:80]!r}")
    path = fields[5].decode("utf-8", "surrogateescape") if len(fields) > 5 else ""
    return start, end, perms, offset, inode, path


def parse_statm(text: bytes, page_size: int) -> tuple[int, int]:
    """Return (address space, RSS) in bytes from /proc/PID/statm."""
    try:
        size, resident = text.split(None, 2)[:2]
        return int(size) * page_size, int(resident) * page_size
    except ValueError:
        raise UnreadableError(f"statm: expected page counts, got {text[:80]!r}") from None


def parse_rollup(text: bytes) -> int:
    """Return RSS in bytes from /proc/PID/smaps_rollup."""
    for line in text.splitlines():
        if line.startswith(b"Rss:"):
            return _kilobytes(line[4:], line)
    raise UnreadableError(f"smaps_rollup: no Rss line in {text[:80]!r}")


def parse_stack_pointer(text: bytes) -> int | None:
    """Return the stack pointer from /proc/PID/task/TID/syscall, or None while the thread runs.

    The line is "nr arg*6 sp pc", "-1 sp pc", or "running" (fs/proc/base.c, proc_pid_syscall).
    """
    fields = text.split()
    if len(fields) < 3:
        return None
    try:
        return int(fields[-2], 16)
    except ValueError:
        return None


def parse_thread_count(text: bytes) -> int:
    """Return the number of threads from /proc/PID/stat: field 20, counted behind the name, which may hold anything."""
    fields = text.rpartition(b")")[2].split(None, 18)
    try:
        return int(fields[17])
    except (IndexError, ValueError):
        raise UnreadableError(f"stat: no thread count in {text[:80]!r}") from None


def parse_thread_state(text: bytes) -> tuple[str, int]:
    """Return (state letter, context switches so far) from /proc/PID/task/TID/status.

    A thread that is not in state R and has not been switched since has not run. Without those lines it reads as running.
    """
    state, switches = "R", 0
    for line in text.splitlines():
        name, _, value = line.partition(b":")
        if name == b"State":
            state = value.strip()[:1].decode("ascii", "replace") or "R"
        elif name in {b"voluntary_ctxt_switches", b"nonvoluntary_ctxt_switches"}:
            switches += int(value) if value.strip().isdigit() else 0
    return state, switches
