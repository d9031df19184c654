"""Room for one raw reading: shared memory outside every heap, allocated and touched before anything is measured.

Numbers are words in it, texts are bytes in it: a Python object made between two readings would be a live block more.
"""

from __future__ import annotations

import mmap
from typing import Final

from pytest_rssguard.allocators import glibc, pymalloc

PAGE: Final = mmap.PAGESIZE
MOST_TOPS: Final = 1024
MOST_THREADS: Final = 1024
SYSCALL: Final = 256  # bytes kept of each task/TID/syscall; the line has at most 9 numbers of 18 characters
FLAT: Final = 65536 + MOST_THREADS * SYSCALL
SMAPS_LEAST: Final = 1 << 18

# words of a slot
LENGTH, VM, TOPS, THREADS, UNKNOWN_STACKS, AT_ONCE, COLLECTED, FINISHED, MALLINFO = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
)
RSS: Final = MALLINFO + glibc.WORDS  # the judged RSS once it has been added up, 0 before
TOP_TABLE: Final = 64
TEXT_AT: Final = 8 * (TOP_TABLE + 3 * MOST_TOPS)
SYSCALL_AT: Final = 65536


def shared_buffer(size: int) -> mmap.mmap:
    """Return anonymous shared memory of `size` bytes, every page of it resident."""
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    for at in range(0, size, PAGE):
        buffer[at] = 0
    return buffer


class Slot:
    """Room for one reading."""

    def __init__(self) -> None:
        self.flat = shared_buffer(FLAT)
        self.view = memoryview(self.flat)
        self.words = self.view[:TEXT_AT].cast("Q")
        self.mallinfo = self.words[MALLINFO : MALLINFO + glibc.WORDS]
        self.text = self.view[TEXT_AT : TEXT_AT + pymalloc.TEXT + 1]
        self.smaps = shared_buffer(SMAPS_LEAST)
        self.smaps_view = memoryview(self.smaps)

    @property
    def size(self) -> int:
        """Bytes that this slot itself adds to RSS."""
        return len(self.flat) + len(self.smaps)

    def grow(self) -> None:
        """Double the room for smaps."""
        size = 2 * len(self.smaps)
        self.smaps_view.release()
        self.smaps.close()
        self.smaps = shared_buffer(size)
        self.smaps_view = memoryview(self.smaps)

    # RSS and times are words here: an int that is made after the baseline would be a live block more
    @property
    def rss_at_once(self) -> int:
        """RSS right after the body, in bytes."""
        return int(self.words[AT_ONCE])

    @rss_at_once.setter
    def rss_at_once(self, size: int) -> None:
        self.words[AT_ONCE] = size

    @property
    def rss_collected(self) -> int:
        """RSS after the collection that follows the body, in bytes."""
        return int(self.words[COLLECTED])

    @rss_collected.setter
    def rss_collected(self, size: int) -> None:
        self.words[COLLECTED] = size

    @property
    def threads(self) -> int:
        """Threads at the last reading."""
        return int(self.words[THREADS])

    @property
    def finished(self) -> int:
        """When what came before this reading ended, in nanoseconds."""
        return int(self.words[FINISHED])

    @finished.setter
    def finished(self, nanoseconds: int) -> None:
        self.words[FINISHED] = nanoseconds

    @property
    def length(self) -> int:
        """Bytes of smaps text in the slot."""
        return int(self.words[LENGTH])
