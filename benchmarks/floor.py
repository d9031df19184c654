"""The unavoidable parts of a guarded test, and nothing else. Imports as little as it can: it runs in a bare process."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from typing import Final

from pytest_rssguard.interpreter import collect_garbage, collect_young

_STATISTICS: Final = 16384
_SMAPS: Final = 1 << 19


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple((str(number), ctypes.c_size_t) for number in range(10))


class Floor:
    """Two raw readings of smaps, two mallinfo2, two pymalloc statistics, the guard's collections, one malloc_trim(0)."""

    def __init__(self) -> None:
        libc = ctypes.PyDLL(None)
        self._mallinfo2 = libc["mallinfo2"]
        self._mallinfo2.restype = _Mallinfo2
        self._trim = libc["malloc_trim"]
        self._trim.argtypes = [ctypes.c_size_t]
        fmemopen = libc["fmemopen"]
        fmemopen.restype = ctypes.c_void_p
        fmemopen.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        self._statistics = libc["_PyObject_DebugMallocStats"]
        self._flush = libc["fflush"]
        self._rewind = libc["rewind"]
        for function in (self._statistics, self._flush, self._rewind):
            function.restype = None
            function.argtypes = [ctypes.c_void_p]
        self._text = _touched(_STATISTICS + mmap.PAGESIZE)
        self._file = fmemopen(ctypes.addressof(ctypes.c_char.from_buffer(self._text)), _STATISTICS, b"w")
        self._smaps = memoryview(_touched(_SMAPS))

    def _read(self) -> None:
        self._mallinfo2()
        self._rewind(self._file)
        self._statistics(self._file)
        self._flush(self._file)
        view, done = self._smaps, 0
        fd = os.open("/proc/self/smaps", os.O_RDONLY | os.O_CLOEXEC)
        while got := os.preadv(fd, [view[done:]], done):
            done += got
        os.close(fd)

    def __call__(self) -> None:
        """Do all of it once."""
        collect_garbage()
        self._trim(0)
        self._read()
        collect_young(alone=True)
        self._read()


def _touched(size: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    buffer[:] = bytes(size)
    return buffer


def timed(call: Callable[[], None]) -> int:
    """Return how long `call` took, in nanoseconds."""
    started = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - started
