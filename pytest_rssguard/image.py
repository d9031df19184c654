"""Read the memory of one process: what is resident (pagemap) and what stands there (mem).

The thin edge under the census. Only resident pages are ever read: reading a page that is not maps the zero page into
the process that is read (measured: pagemap then shows a whole trimmed heap as present). Buffers are mmap-backed, so
that nothing of 64 KiB or more goes through the malloc that is being examined.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from bisect import bisect_right
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from pytest_rssguard.errors import InconsistentMemoryError, UnreadableError

PAGE: Final = mmap.PAGESIZE
#: The most that is read at once, and how much of it a walk reads: that stays in the processor's cache, and in few new pages.
_BUFFER: Final = 4 << 20
_WINDOW: Final = 1 << 18
#: _IOWR('f', 16, struct pm_scan_arg), Linux 6.7+, include/uapi/linux/fs.h.
_PAGEMAP_SCAN: Final = 0xC0606610
_PRESENT: Final = 1 << 3
_PFNZERO: Final = 1 << 5
_SCAN_ARG: Final = struct.Struct("=12Q")
_RUNS: Final = 1024
_PAGEMAP_PRESENT: Final = 1 << 63
#: No process has memory above this: 2**57 bytes with five-level page tables, half of it the kernel's.
_HIGHEST: Final = 1 << 56


class Image:
    """The memory of process `pid` (a Memory). Raises UnreadableError where /proc refuses; close it after use.

    `touch`: whether `read` may make a page of a file resident in that process, as it must in a frozen copy, which has
    none of them; without it such a page is read from the file. `progress` is told how many bytes each read brought.
    """

    def __init__(
        self, pid: int | str, *, proc: str = "/proc", touch: bool = True, progress: Callable[[int], None] | None = None
    ) -> None:
        self.pid = pid
        self._progress = progress
        self._root = f"{proc}/{pid}/root"
        self._touch = touch
        self._fds: list[int] = []
        try:
            self._mem = self._open(f"{proc}/{pid}/mem")
            self._pagemap = self._open(f"{proc}/{pid}/pagemap")
        except OSError as error:
            self.close()
            raise UnreadableError(f"{error.filename}: {error.strerror}") from None
        # shared memory: a census of this very process must not take the headers copied here for chunks and pools
        self._buffer = mmap.mmap(-1, _BUFFER, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self._bytes = memoryview(self._buffer)
        self._words = self._bytes.cast("Q")
        self._scan_buffer = mmap.mmap(-1, _RUNS * 24, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._scanned = memoryview(self._scan_buffer).cast("Q")
        self._scan_address = ctypes.addressof(ctypes.c_char.from_buffer(self._scan_buffer))
        self._can_scan = True
        self._base = self._end = 0
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._covered_from = self._covered_to = 0
        self._horizon = 0

    def _open(self, path: str) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
        """Return resident 64-bit words that include `address`: (words, address of the first, end of what is valid).

        The view is valid until the next call. None: the page of `address` is not resident.
        """
        if self._base <= address and address + 48 <= self._end:
            return self._words, self._base, self._end
        run_end = self._run_end(address, end)
        if run_end is None:
            return None
        base = address & -PAGE
        size = min(run_end, (end + PAGE - 1) & -PAGE, base + _WINDOW) - base
        self._read(base, size)
        return self._words, self._base, self._end

    def stretch(self, start: int, end: int) -> tuple[memoryview, int, int] | None:
        """Return the resident words from the page of `start` on as `window` does, but up to 4 MiB of them."""
        run_end = self._run_end(start, end)
        if run_end is None:
            return None
        base = start & -PAGE
        self._read(base, min(run_end, (end + PAGE - 1) & -PAGE, base + _BUFFER) - base)
        return self._words, self._base, self._end

    def _read(self, base: int, size: int) -> None:
        done = 0
        self._base = self._end = 0
        while done < size:
            try:
                got = os.preadv(self._mem, [self._bytes[done:size]], base + done)
            except OSError as error:
                raise InconsistentMemoryError(f"memory unreadable ({error.strerror})", address=base + done) from None
            if not got:
                raise InconsistentMemoryError("memory ended", address=base + done)
            done += got
        self._base, self._end = base, base + size
        if self._progress:
            self._progress(size)

    def word(self, address: int) -> int | None:
        """Return the 64-bit word at `address`, or None where its page is not resident."""
        if self._base <= address and address + 8 <= self._end:
            return int(self._words[(address - self._base) >> 3])
        if self._run_end(address, address + 8) is None:
            return None
        try:
            data = os.pread(self._mem, 8, address)
        except OSError:
            return None
        return int.from_bytes(data, "little") if len(data) == 8 else None

    def read(self, address: int, size: int, *, path: str = "") -> bytes:
        """Return up to `size` bytes (at most 32 KiB) at `address`, where the file `path` begins; b"" where refused."""
        if not self._touch and self.resident(address & -PAGE, address + size) < size:
            return self._read_file(path, min(size, 32768))
        try:
            return os.pread(self._mem, min(size, 32768), address)
        except OSError:
            return b""

    def _read_file(self, path: str, size: int) -> bytes:
        """Return the first bytes of the file that the process sees at `path`, b"" if there is no such file any more."""
        try:
            fd = os.open(f"{self._root}{path}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            return b""
        try:
            return os.pread(fd, size, 0)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def resident(self, start: int, end: int) -> int:
        """Return how many bytes of [start, end) are resident; the zero page does not count, as in Rss."""
        total, at = 0, start
        while at < end:
            if not self._covered_from <= at < self._covered_to:
                self._cover(at, max(end, self._horizon) if at < self._horizon else end)
            upto = min(end, self._covered_to)
            i = max(bisect_right(self._starts, at) - 1, 0)
            while i < len(self._starts) and self._starts[i] < upto:
                overlap = min(upto, self._ends[i]) - max(at, self._starts[i])
                if overlap > 0:
                    total += overlap
                i += 1
            at = upto
        return total

    def _run_end(self, address: int, end: int) -> int | None:
        """Return where the resident run that holds `address` ends (as far as scanned), or None if there is none."""
        if not self._covered_from <= address < self._covered_to:
            self._horizon = end
            self._cover(address, end)
        i = bisect_right(self._starts, address) - 1
        return self._ends[i] if i >= 0 and address < self._ends[i] else None

    def runs(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the first resident runs of [start, end), at most 1024, and remember how far that was (`covered_to`)."""
        self._cover(start, end)
        return list(zip(self._starts, self._ends, strict=True))

    @property
    def can_scan(self) -> bool:
        """Whether the kernel lists residency itself (PAGEMAP_SCAN). True until it was tried."""
        return self._can_scan

    @property
    def covered_to(self) -> int:
        """Where the last scan stopped: scan on from here."""
        return self._covered_to

    def _cover(self, start: int, end: int) -> None:
        start &= -PAGE
        end = (end + PAGE - 1) & -PAGE
        self._starts, self._ends = [], []
        self._covered_from = start
        if not 0 <= start < end <= _HIGHEST:  # from a broken heap. Asked for it, the kernel refuses the whole scan
            self._covered_to = max(end, start + PAGE)
            return
        if self._can_scan:
            try:
                self._scan(start, end)
            except OSError as error:
                if error.errno not in {errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM}:
                    raise InconsistentMemoryError(f"pagemap unreadable ({error.strerror})", address=start) from None
                self._can_scan = False
            else:
                return
        self._read_pagemap(start, end)

    def _scan(self, start: int, end: int) -> None:
        """Let the kernel list the runs (admin-guide/mm/pagemap.rst, PAGEMAP_SCAN): present and not the zero page."""
        argument = bytearray(
            _SCAN_ARG.pack(96, 0, start, end, 0, self._scan_address, _RUNS, 0, _PFNZERO, _PRESENT | _PFNZERO, 0, _PRESENT)
        )
        found = fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, argument, True)
        for i in range(0, found * 3, 3):
            self._add_run(self._scanned[i], self._scanned[i + 1])
        walked = _SCAN_ARG.unpack(argument)[4]
        self._covered_to = walked if found == _RUNS and walked > start else end

    def _add_run(self, start: int, end: int) -> None:
        if self._ends and self._ends[-1] == start:
            self._ends[-1] = end
        else:
            self._starts.append(start)
            self._ends.append(end)

    def _read_pagemap(self, start: int, end: int) -> None:
        """Read residency page by page: kernels before 6.7. There the zero page reads as resident."""
        at = start
        self._covered_to = start
        while at < end and len(self._starts) < _RUNS:
            pages = min((end - at) // PAGE, 4096)
            try:
                data = os.pread(self._pagemap, pages * 8, at // PAGE * 8)
            except OSError as error:
                raise InconsistentMemoryError(f"pagemap unreadable ({error.strerror})", address=at) from None
            if len(data) < pages * 8:
                raise InconsistentMemoryError("pagemap ended", address=at)
            for entry in memoryview(data).cast("Q"):
                if entry & _PAGEMAP_PRESENT:
                    self._add_run(at, at + PAGE)
                at += PAGE
            self._covered_to = at
