"""Ask pymalloc for its statistics, without a file descriptor and without a Python object that stays.

Source: CPython Objects/obmalloc.c, _PyObject_DebugMallocStats(FILE *), the same text in 3.9-3.15. It writes through a
FILE of our own that stands on shared memory (fmemopen), so no memory of the guarded program moves.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sysconfig
from collections.abc import Iterator
from itertools import starmap
from typing import Any, Final

from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.model import PoolStats

TEXT: Final = 16384
_FIELDS: Final = re.compile(
    rb"# arenas allocated current += +(?P<arenas>[\d,]+)\s"
    rb"(?P<current>[\d,]+) arenas \* (?P<size>[\d,]+) bytes/arena.*"
    rb"# bytes in allocated blocks += +(?P<allocated>[\d,]+)\s.*"
    rb"(?P<unused>[\d,]+) unused pools \* ",
    re.DOTALL,
)
_CLASS: Final = re.compile(rb"^ +\d+ +(\d+) +(\d+) +(\d+) +\d+$", re.MULTILINE)


def _number(text: bytes) -> int:
    return int(text.replace(b",", b""))


def parse_pool_stats(text: bytes) -> PoolStats:
    """Return the numbers in the text of _PyObject_DebugMallocStats. Raises UnreadableError on anything else."""
    found = _FIELDS.search(text)
    if not text:
        raise UnreadableError("Python's allocator is hooked (tracemalloc, memray): pymalloc tells nothing meanwhile")
    if found is None:
        raise UnreadableError(f"pymalloc statistics: unknown text {text[:80]!r}")
    return PoolStats(
        arenas=_number(found["current"]),
        arena_size=_number(found["size"]),
        used_pools=sum(int(pools) for _size, pools, _blocks in _CLASS.findall(text)),
        unused_pools=_number(found["unused"]),
        allocated=_number(found["allocated"]),
    )


def parse_blocks(text: bytes) -> dict[int, int]:
    """Return the live blocks of each size class, {bytes: blocks}, from the same text."""
    return {int(size): int(blocks) for size, _pools, blocks in _CLASS.findall(text)}


class Pymalloc:
    """pymalloc of this interpreter. `active` is False where objects come from elsewhere, with the reason in `why_not`."""

    name = "pymalloc"

    def __init__(self) -> None:
        self.why_not = ""
        #: Whether Python's objects come from malloc: then pymalloc's accounts are zero, not unknown.
        self.objects_in_malloc = False
        #: Whether CPython's own copy of mimalloc serves objects.
        self.objects_in_mimalloc = False
        libc = ctypes.PyDLL(None)
        try:
            self._stats = libc["_PyObject_DebugMallocStats"]
            fmemopen = libc["fmemopen"]
        except AttributeError as error:
            self.why_not = f"this interpreter does not tell its memory statistics ({error})"
            self.active = False
            return
        self._stats.restype = None
        self._stats.argtypes = [ctypes.c_void_p]
        fmemopen.restype = ctypes.c_void_p
        fmemopen.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        self._flush = libc["fflush"]
        self._flush.restype = None
        self._flush.argtypes = [ctypes.c_void_p]
        self._rewind = libc["rewind"]
        self._rewind.restype = None
        self._rewind.argtypes = [ctypes.c_void_p]
        self._memory = mmap.mmap(-1, TEXT + mmap.PAGESIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._memory)
        self._file = fmemopen(ctypes.addressof(ctypes.c_char.from_buffer(self._memory)), TEXT, b"w")
        self.active = self._file is not None and self._probe(libc)

    def _probe(self, libc: ctypes.PyDLL) -> bool:
        try:
            current = libc["_PyMem_GetCurrentAllocatorName"]
            current.restype = ctypes.c_char_p
            name = current() or b""
        except AttributeError:
            name = os.environ.get("PYTHONMALLOC", "").encode()
        if sysconfig.get_config_var("Py_GIL_DISABLED") or name.startswith(b"mimalloc"):
            self.why_not = "Python's objects are in CPython's own mimalloc, which tells no live bytes"
            self.objects_in_mimalloc = True
            return False
        if name.startswith(b"malloc"):
            self.why_not = "PYTHONMALLOC=malloc: Python's objects are in malloc"
            self.objects_in_malloc = True
            return False
        self.write()
        try:
            parse_pool_stats(self.text())
        except UnreadableError as error:
            self.why_not = str(error)
            return False
        return True

    def write(self) -> None:  # hot: allocates nothing that outlives the call
        """Have the statistics written to our shared memory."""
        self._memory[0] = 0  # a hooked pymalloc writes nothing: the text of before must not stand for now
        self._rewind(self._file)
        self._stats(self._file)
        self._flush(self._file)

    def text(self) -> bytes:
        """Return what was last written."""
        return bytes(self._view[: self.length()])

    def length(self) -> int:
        """Return how many bytes were last written: fflush ends the text with a NUL (fmemopen(3))."""
        end = self._memory.find(b"\0")
        return end if 0 <= end < TEXT else TEXT

    def copy_to(self, target: memoryview) -> None:  # hot: allocates nothing that outlives the call
        """Copy the last text, NUL included, to `target` of TEXT + 1 bytes or more."""
        target[: TEXT + 1] = self._view[: TEXT + 1]

    def notes(self) -> list[Iterator[Any]]:
        """Return the C calls with which a frozen copy writes its own statistics to our shared memory."""
        argument = (self._file,)
        return [
            starmap(self._memory.__setitem__, [(0, 0)]),
            starmap(self._rewind, [argument]),
            starmap(self._stats, [argument]),
            starmap(self._flush, [argument]),
        ]
