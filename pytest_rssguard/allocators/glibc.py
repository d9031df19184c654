"""Ask glibc's malloc in this process: mallinfo2, malloc_trim, the calling thread's tcache, the tcache key.

Sources: glibc malloc/malloc.c 2.36 and 2.43 (int_mallinfo, mtrim, tcache_perthread_struct, tcache_key). Every call goes
through PyDLL: the GIL stays held, so no other Python thread runs between two readings. With another allocator in force
mallinfo2 and malloc_trim still resolve, and answer zeros: a probe decides whether to trust them.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from itertools import starmap
from typing import Any, Final

from pytest_rssguard.model import MallocStats

_FIELDS: Final = (
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
)
#: Words that `read_into` writes: the ten fields of mallinfo2, the caller's tcache (all ones where unknown), and `cut`.
WORDS: Final = len(_FIELDS) + 2
_UNKNOWN: Final = (1 << 64) - 1
_CLASSES: Final = 64
#: The largest count a tcache bin can have by default: 7 up to 2.42, 16 from 2.43.
_MOST: Final = 16
_FOREIGN: Final = (
    ("mallctl", "jemalloc"), ("mi_version", "mimalloc"), ("MallocExtension_Internal_ReleaseMemoryToSystem", "tcmalloc"),
    ("MallocExtension_ReleaseFreeMemory", "tcmalloc (gperftools)"), ("tc_version", "tcmalloc (gperftools)"),
    ("__asan_init", "AddressSanitizer"), ("__tsan_init", "ThreadSanitizer"), ("scalable_malloc", "tbbmalloc"),
    ("rpmalloc", "rpmalloc"), ("snmalloc_malloc", "snmalloc"), ("hoard_malloc", "hoard"),
)  # fmt: skip


class Mallinfo2(ctypes.Structure):
    """struct mallinfo2: bytes and numbers, size_t each."""

    arena: int
    ordblks: int
    hblks: int
    hblkhd: int
    fsmblks: int
    uordblks: int
    fordblks: int
    _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)


def parse_mallinfo(words: memoryview) -> MallocStats:
    """Return the statistics in the WORDS 64-bit words that `read_into` wrote."""
    fields = dict(zip(_FIELDS, words, strict=False))
    tcache, cut = words[len(_FIELDS)], words[len(_FIELDS) + 1]
    return MallocStats(
        arena=fields["arena"], hblks=fields["hblks"], hblkhd=fields["hblkhd"], fsmblks=fields["fsmblks"],
        uordblks=fields["uordblks"], fordblks=fields["fordblks"], ordblks=fields["ordblks"],
        tcache=None if tcache == _UNKNOWN else tcache, cut=cut,
    )  # fmt: skip


def statistics(info: Mallinfo2) -> MallocStats:
    """Return the fields of `info` that are used. It does not know the caller's tcache, nor what was cut off."""
    return MallocStats(
        arena=info.arena, hblks=info.hblks, hblkhd=info.hblkhd, fsmblks=info.fsmblks, uordblks=info.uordblks,
        fordblks=info.fordblks, ordblks=info.ordblks,
    )  # fmt: skip


def libc_version() -> tuple[int, int] | None:
    """Return the version of the running glibc, or None on another C library."""
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return None
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", text)
    return (int(found[1]), int(found[2])) if found else None


#: Free chunks from which on a census first has them sorted, how many one request sorts, and a size that no tcache has.
_MANY_FREE: Final = 50_000
_SORTED_AT_ONCE: Final = 10_000
_NO_CACHE: Final = 1500


class Glibc:
    """glibc's malloc, if it is what this process really uses: `active`, else the reason in `why_not`."""

    name = "glibc"

    def __init__(self) -> None:
        self.why_not = ""
        self.version = libc_version()
        self.key: int | None = None
        self._counts = 0  # address of the calling thread's tcache counts, 0 where not found
        self._thread = 0
        # addresses: where the main heap would end without our trims, and where it ended after the last of them. Words: an
        # int that is made between two readings would be a live block more
        self._ends = memoryview(bytearray(16)).cast("Q")
        libc = ctypes.PyDLL(None)
        try:
            self._mallinfo2 = libc["mallinfo2"]
            self._mallinfo2.restype = Mallinfo2
            self._trim = libc["malloc_trim"]
            self._trim.argtypes = [ctypes.c_size_t]
            self._malloc = libc["malloc"]
            self._malloc.restype = ctypes.c_void_p
            self._malloc.argtypes = [ctypes.c_size_t]
            self._free = libc["free"]
            self._free.restype = None
            self._free.argtypes = [ctypes.c_void_p]
            self._pthread_self = libc["pthread_self"]
            self._pthread_self.restype = ctypes.c_void_p
            self._sbrk = libc["sbrk"]
            self._sbrk.restype = ctypes.c_size_t
            self._sbrk.argtypes = [ctypes.c_ssize_t]
        except AttributeError:
            self.active = False
            name = f"glibc {self.version[0]}.{self.version[1]}" if self.version else "this C library"
            self.why_not = f"{name} has no mallinfo2 (glibc has it from 2.33 on)"
            return
        foreign = next((name for symbol, name in _FOREIGN if hasattr(libc, symbol)), "")
        before = self._mallinfo2()
        block = self._malloc(50_000)
        after = self._mallinfo2()
        self._free(block)
        self.active = after.uordblks + after.hblkhd > before.uordblks + before.hblkhd
        if not self.active:
            self.why_not = f"the allocator is {foreign or 'not that of the C library'}: it does not tell what is live"
            return
        self.key = self._learn_key()
        self._find_counts()

    def _learn_key(self) -> int | None:
        """Return the tcache key: what free() writes in the second word of every cached block (2.34+)."""
        if self.version is not None and self.version < (2, 34):
            return None
        keys = set()
        for size in (24, 200, 680):
            block = self._malloc(size)
            self._free(block)
            keys.add(ctypes.c_uint64.from_address(block + 8).value)
        return keys.pop() if len(keys) == 1 else None

    def _find_counts(self) -> None:
        """Find the calling thread's table of tcache counts and prove by experiment that it is that.

        The table is in the first chunk (0x290 bytes) of the thread's heap: two-byte counts, then 64 list heads. It is
        believed only if freeing a block puts that block at the head of its list and raises its count by one, for three
        classes. Other layouts (2.42 on) fail the proof; then `read_into` fills every class instead.
        """
        self._thread = self._pthread_self()
        self._counts = 0
        heap = _heap_start()
        if not heap or ctypes.c_uint64.from_address(heap + 8).value & -8 != 0x290:
            return
        table = heap + 16
        counts = (ctypes.c_uint16 * _CLASSES).from_address(table)
        heads = (ctypes.c_uint64 * _CLASSES).from_address(table + 2 * _CLASSES)
        for size in (24, 200, 680):
            index = (size + 8 + 15) // 16 - 2
            block = self._malloc(size)
            taken = counts[index]
            self._free(block)
            if taken < 7 and (counts[index] != taken + 1 or heads[index] != block):
                return
        self._counts = table
        self._table = counts

    def settle_tcache(self) -> int:
        """Bring the calling thread's tcache to a known state; return its bytes, or -1 where only "full" is known."""
        if self._counts and self._pthread_self() == self._thread:
            return sum(count * size for count, size in zip(self._table, range(32, 32 + 16 * _CLASSES, 16), strict=True))
        malloc, free = self._malloc, self._free
        for size in range(24, 24 + 16 * _CLASSES, 16):
            for block in [malloc(size) for _ in range(_MOST)]:
                free(block)
        return -1

    def read_into(self, words: memoryview) -> None:  # hot: allocates nothing that outlives the call
        """Write mallinfo2 and the caller's tcache bytes to WORDS 64-bit words."""
        cached = self.settle_tcache()
        words[len(_FIELDS)] = cached if cached >= 0 else _UNKNOWN
        words[len(_FIELDS) + 1] = self.cut()
        info = self._mallinfo2()
        words.cast("B")[: ctypes.sizeof(info)] = bytes(info)

    def stats(self) -> MallocStats:
        """Return the statistics now."""
        words = memoryview(bytearray(8 * WORDS)).cast("Q")
        self.read_into(words)
        return parse_mallinfo(words)

    def mallinfo(self) -> Mallinfo2:
        """Return what mallinfo2 says now, whatever the calling thread has cached: 0.6 us, `statistics` of it later."""
        info: Mallinfo2 = self._mallinfo2()
        return info

    def purge(self) -> None:
        """Call malloc_trim(0). Its return value says nothing: it is 1 also when nothing was resident.

        What it cuts off the end of the main heap is remembered (`cut`); the ends of thread heaps it leaves (mtrim).
        """
        ends = self._ends
        ends[0] = self._sbrk(0) + self.cut()
        self._trim(0)
        ends[1] = self._sbrk(0)

    def cut(self) -> int:  # hot: allocates nothing that outlives the call
        """Return by how many bytes the main heap would end higher, had `purge` never been called: address space.

        0 where it ends lower than `purge` has left it: free() has then cut off its end itself, as it would have before.
        """
        end = self._sbrk(0)
        return max(0, self._ends[0] - end) if end >= self._ends[1] else 0

    def sort_free(self) -> None:
        """Have malloc sort its freed chunks into bins now, where they are many: it does at the next requests anyhow.

        Beside a frozen copy each page that this writes to is copied: 250,000 of them, 3 s, for 500,000 freed chunks. A
        request sorts 10,000 chunks at most (MAX_ITERS of _int_malloc, malloc.c, glibc 2.36), and one over 1,000 bytes also
        merges what lies in fastbins, as malloc_trim does.
        """
        chunks = self._mallinfo2().ordblks
        if chunks > _MANY_FREE:
            for _ in range(chunks // _SORTED_AT_ONCE + 1):
                self._free(self._malloc(_NO_CACHE))

    def notes(self, target: memoryview) -> list[Iterator[Any]]:
        """Return the C calls with which a frozen copy writes its mallinfo2 to `target` (shared memory, in bytes)."""
        size = ctypes.sizeof(Mallinfo2)
        return [map(target.__setitem__, [slice(0, size)], map(bytes, starmap(self._mallinfo2, [()])))]


def _heap_start() -> int:
    """Return where [heap] starts, or 0."""
    try:
        with open("/proc/self/maps", "rb", buffering=0) as maps:  # noqa: PTH123 - unbuffered on purpose: no block of 64 KiB
            text = b""
            while chunk := maps.read(4096):
                text = text[-200:] + chunk
                found = re.search(rb"^([0-9a-f]+)-[0-9a-f]+ [^\n]*\[heap\]$", text, re.MULTILINE)
                if found:
                    return int(found[1], 16)
    except OSError:
        pass
    return 0
