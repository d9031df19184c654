"""Builders: made-up /proc texts, memory, heaps and pools that know what was put into them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from pytest_rssguard.heapwalk import EXACT_SIZES
from pytest_rssguard.ledger import booked
from pytest_rssguard.model import (
    Account,
    Basis,
    Census,
    Evidence,
    Heap,
    Limit,
    MallocStats,
    Outcome,
    PoolStats,
    Region,
    Snapshot,
    Verdict,
)
from pytest_rssguard.record import Record
from pytest_rssguard.result import Result

PAGE: Final = 4096
KIB: Final = 1 << 10
MIB: Final = 1 << 20
POOL: Final = 16 << 10
KEY: Final = 0x5DEECE66D1234567
#: Where made-up heaps stand unless told otherwise.
BASE: Final = 0x5555_5555_0000


# --- text of /proc ----------------------------------------------------------------------------------------------


def region(
    start: int,
    size: int,
    *,
    path: str = "",
    perms: str = "rw-p",
    rss: int | None = None,
    inode: int | None = None,
    offset: int = 0,
    lazy_free: int = 0,
    huge: int = 0,
) -> Region:
    """Return a mapping of `size` bytes, wholly resident unless told otherwise; a path that is a file has an inode."""
    resident = size if rss is None else rss
    file = path.startswith("/")
    return Region(
        start=start,
        end=start + size,
        perms=perms,
        offset=offset,
        inode=(7 if file else 0) if inode is None else inode,
        path=path,
        rss=resident,
        anonymous=0 if file else resident,
        lazy_free=lazy_free,
        huge=huge,
    )


def smaps(regions: Iterable[Region]) -> bytes:
    """Return the text that the kernel shows for `regions` (fs/proc/task_mmu.c: show_map_vma, __show_smap)."""
    lines: list[bytes] = []
    for each in regions:
        head = f"{each.start:08x}-{each.end:08x} {each.perms} {each.offset:08x} 08:01 {each.inode} "
        path = each.path.encode("utf-8", "surrogateescape")
        lines.append(head.encode().ljust(73) + path if path else head.encode())
        sizes = {
            "Size:": each.size,
            "KernelPageSize:": PAGE,
            "MMUPageSize:": PAGE,
            "Rss:": each.rss,
            "Pss:": each.rss,
            "Anonymous:": each.anonymous,
            "LazyFree:": each.lazy_free,
            "AnonHugePages:": each.huge,
            "Swap:": 0,
        }
        lines.extend(f"{name:<16}{size // 1024:>8} kB".encode() for name, size in sizes.items())
        lines.extend((b"THPeligible:           0", b"VmFlags: rd wr mr mw me ac sd "))
    return b"".join(line + b"\n" for line in lines)


# --- memory -----------------------------------------------------------------------------------------------------


class FakeMemory:
    """Memory (model.Memory) made of bytes at `base`, page by page resident or not, never shown further than `reach`.

    A small `reach` makes chunks cross the end of a window, as those of a large heap do.
    """

    def __init__(self, data: bytes, *, base: int = BASE, absent: Iterable[int] = (), reach: int = 1 << 22) -> None:
        padding = -len(data) % PAGE
        self._words = memoryview(data + bytes(padding)).cast("Q")
        self.base = base
        self.end = base + len(data) + padding
        self.absent = frozenset(absent)  # indices of pages
        self._reach = reach

    def _is_here(self, address: int) -> bool:
        return self.base <= address < self.end and (address - self.base) // PAGE not in self.absent

    def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
        """Return the resident words from the page of `address` on, up to the first absent page."""
        start = stop = address & -PAGE
        while stop < min(end, start + self._reach) and self._is_here(stop):
            stop += PAGE
        if stop == start:
            return None
        return self._words[(start - self.base) >> 3 : (stop - self.base) >> 3], start, stop

    def word(self, address: int) -> int | None:
        """Return the word at `address`, or None where its page is absent."""
        return int(self._words[(address - self.base) >> 3]) if self._is_here(address) else None

    def resident(self, start: int, end: int) -> int:
        """Return how many bytes of [start, end) lie on pages that are here."""
        total, at = 0, start
        while at < end:
            stop = min(end, (at & -PAGE) + PAGE)
            total += (stop - at) if self._is_here(at) else 0
            at = stop
        return total


def words(values: Sequence[int]) -> memoryview:
    """Return `values` as a view of 64-bit words."""
    return memoryview(struct.pack(f"={len(values)}Q", *values)).cast("Q")


# --- glibc heaps ------------------------------------------------------------------------------------------------


class Use(StrEnum):
    """What a made-up chunk is."""

    LIVE = "live"
    TCACHE = "tcache"
    FAST = "fast"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk where it was put."""

    use: Use
    start: int
    size: int

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.start + self.size


@dataclass(slots=True)
class HeapBuilder:
    """Lays chunks out one behind the other, as malloc/malloc.c does, and says what a walk has to find.

    `sparse`: leave the inside of live and free chunks untouched, so that their whole pages are not resident.
    """

    base: int = BASE
    #: Offset of the first chunk: what stands before it is no chunk (a heap_info, a malloc_state).
    head: int = 0
    key: int = KEY
    chunks: list[Chunk] = field(default_factory=list)
    _absent: set[int] = field(default_factory=set)
    _ending: Callable[[bytearray, int], None] | None = None
    _top: int | None = None
    _top_end: int = 0
    _end: int = 0

    @property
    def first(self) -> int:
        """The address of the first chunk."""
        return self.base + self.head

    @property
    def at(self) -> int:
        """The address of the next chunk."""
        return self.chunks[-1].end if self.chunks else self.first

    @property
    def top(self) -> int | None:
        """The address of the top chunk, None in a heap that was left behind."""
        return self._top

    @property
    def end(self) -> int:
        """Where the heap's memory ends."""
        return self._end

    def add(self, use: Use, size: int, *, sparse: bool = False) -> HeapBuilder:
        """Put a chunk of `size` bytes, header included."""
        assert size >= 32
        assert size % 16 == 0
        chunk = Chunk(use, self.at, size)
        self.chunks.append(chunk)
        if sparse:
            self._forget(chunk.start + 48, chunk.end)
        return self

    def live(self, size: int, *, sparse: bool = False) -> HeapBuilder:
        """Put a live chunk."""
        return self.add(Use.LIVE, size, sparse=sparse)

    def tcache(self, size: int) -> HeapBuilder:
        """Put a freed chunk that a tcache keeps."""
        return self.add(Use.TCACHE, size)

    def fast(self, size: int) -> HeapBuilder:
        """Put a freed chunk that a fastbin keeps."""
        return self.add(Use.FAST, size)

    def free(self, size: int, *, sparse: bool = False) -> HeapBuilder:
        """Put a free chunk."""
        return self.add(Use.FREE, size, sparse=sparse)

    def ends_with_top(self, size: int | None = None, *, beyond: int = 0, sparse: bool = False) -> HeapBuilder:
        """End with the top chunk (to the end of its page unless told otherwise), and `beyond` bytes behind it."""
        at = self.at
        if size is None:
            size = (-at % PAGE) or PAGE
            size += PAGE if size < 32 else 0
        self._top, self._top_end, self._end = at, at + size, at + size + beyond
        if sparse:
            self._forget(at + 48, self._top_end)
        return self

    def ends_left_behind(self, beyond: int = 0) -> HeapBuilder:
        """End with the fenceposts of a heap that malloc has left for another (sysmalloc), and `beyond` bytes."""
        self._top, self._top_end, self._end = None, self.at, self.at + 32 + beyond
        return self

    def _forget(self, start: int, end: int) -> None:
        self._absent |= set(range((start - self.base + PAGE - 1) // PAGE, (end - self.base) // PAGE))

    def memory(self, *, reach: int = 1 << 22) -> FakeMemory:
        """Return the heap's memory."""
        return FakeMemory(self.data(), base=self.base, absent=self._absent, reach=reach)

    def data(self) -> bytes:
        """Return the heap's bytes, from `base`."""
        assert self._end, "say how the heap ends"
        data = bytearray(self._end - self.base + 16)
        in_use = 1  # the first chunk's predecessor is taken to be in use

        def put(address: int, value: int) -> None:
            struct.pack_into("=Q", data, address - self.base, value)

        for chunk in self.chunks:
            put(chunk.start + 8, chunk.size | in_use)
            if chunk.use is Use.TCACHE:
                put(chunk.start + 24, self.key)
            in_use = 0 if chunk.use is Use.FREE else 1
            if chunk.use is Use.FREE:
                put(chunk.end, chunk.size)  # prev_size of the next
        if self._top is not None:
            put(self._top + 8, (self._top_end - self._top) | in_use)
        else:
            put(self.at + 8, 16 | in_use)
            put(self.at + 24, 1)
        return bytes(data[: self._end - self.base])

    def marks(self) -> bytes:
        """Return one byte per 16: not zero where a chunk in a fastbin starts."""
        found = bytearray((self._end - self.first) // 16 + 1)
        for chunk in self.chunks:
            if chunk.use is Use.FAST:
                found[(chunk.start - self.first) >> 4] = 1
        return bytes(found)

    def expected(self, *, main: bool = True, top_releasable: bool = True) -> Heap:
        """Return what a walk has to find, told page by page rather than in one pass."""
        memory = self.memory()

        def resident(chunks: Iterable[Chunk]) -> int:
            return sum(memory.resident(chunk.start, chunk.end) for chunk in chunks)

        by_use = {use: [chunk for chunk in self.chunks if chunk.use is use] for use in Use}
        live = by_use[Use.LIVE]
        ranges = self._free_ranges()
        last = ranges.pop() if self._top is not None else None
        stays: list[tuple[int, int]] = []  # free, and not to be given back
        trimmable = top_trimmable = arena_top = 0
        for start, end in ranges:
            gone_from, gone_to = _mtrim(start, end)
            trimmable += memory.resident(gone_from, gone_to)
            stays += [(start, gone_from), (gone_to, end)]
        if last is not None and main and top_releasable:
            gone_from = _systrim(*last)
            top_trimmable = memory.resident(gone_from, last[1])
            stays.append((last[0], gone_from))
        elif last is not None:
            arena_top = memory.resident(*last)
        # malloc's own minimum keeps the page where the top starts: who lives beside it pins nothing
        edges = [*ranges, *([last] if last is not None and last[0] != self._top else [])]
        pages = {page for start, end in stays if start < end for page in range(start // PAGE, (end - 1) // PAGE + 1)}
        pins: dict[int, int] = {}
        for chunk in live:
            if any(_shares_a_page(chunk, edge) for edge in edges):
                pins[_class(chunk.size)] = pins.get(_class(chunk.size), 0) + 1
        walked = self._top_end
        return Heap(
            start=self.first,
            end=self._end,
            main=main,
            live=resident(live),
            live_blocks=len(live),
            untouched=sum(chunk.size for chunk in live) - resident(live),
            tcache=resident(by_use[Use.TCACHE]),
            free=sum(chunk.size for chunk in by_use[Use.FREE]) + (walked - self._top if self._top is not None else 0),
            fast=sum(chunk.size for chunk in by_use[Use.FAST]),
            pinned=sum(memory.resident(start, end) for start, end in stays),
            pinned_pages=sum(memory.resident(page * PAGE, page * PAGE + PAGE) for page in pages) // PAGE,
            trimmable=trimmable + top_trimmable,
            top_trimmable=top_trimmable,
            arena_top=arena_top,
            metadata=memory.resident(walked, self._end),
            pins=pins,
            walked=walked,
        )

    def pages(self, *, main: bool = True, top_releasable: bool = True) -> str:
        """Return one letter for each page of [first, end), as a drawing has to show it (record.HeapMap)."""
        memory = self.memory()
        ranges = self._free_ranges()
        last = ranges.pop() if self._top is not None else None
        gone: list[tuple[int, int]] = []
        stays: list[tuple[int, int]] = []
        for start, end in ranges:
            gone_from, gone_to = _mtrim(start, end)
            gone.append((gone_from, gone_to))
            stays += [(start, gone_from), (gone_to, end)]
        top = (0, 0)
        if last is not None and main and top_releasable:
            gone.append((_systrim(*last), last[1]))
            stays.append((last[0], gone[-1][0]))
        elif last is not None:
            top = last
        letters = []
        for page in range(self.first // PAGE * PAGE, self._end, PAGE):
            if not memory.resident(page, page + PAGE):
                letters.append(".")
            elif any(start <= page and page + PAGE <= end for start, end in gone):
                letters.append("T")
            elif any(start < page + PAGE and page < end for start, end in stays if start < end):
                letters.append("P")
            else:
                letters.append("A" if top[0] <= page and page + PAGE <= top[1] else "L")
        return "".join(letters)

    def _free_ranges(self) -> list[tuple[int, int]]:
        """Return the free ranges as malloc_trim sees them, neighbours merged; the last one holds the top, if any."""
        ranges: list[tuple[int, int]] = []
        for chunk in self.chunks:
            if chunk.use not in {Use.FREE, Use.FAST}:
                continue
            if ranges and ranges[-1][1] == chunk.start:
                ranges[-1] = (ranges[-1][0], chunk.end)
            else:
                ranges.append((chunk.start, chunk.end))
        if self._top is not None:
            if ranges and ranges[-1][1] == self._top:
                ranges[-1] = (ranges[-1][0], self._top_end)
            else:
                ranges.append((self._top, self._top_end))
        return ranges


def _class(size: int) -> int:
    power = 1
    while power < size:
        power *= 2
    return size if size <= EXACT_SIZES else power


def _mtrim(start: int, end: int) -> tuple[int, int]:
    """Return what malloc.c, mtrim, gives to madvise of the free chunk [start, end); empty at its end if nothing."""
    pages = [at for at in range(-(-start // PAGE) * PAGE, end, PAGE) if at >= start + 48 and at + PAGE <= end]
    return (pages[0], pages[-1] + PAGE) if pages else (end, end)


def _systrim(start: int, end: int) -> int:
    """Return from where on malloc.c, systrim with pad 0, gives the top [start, end) back."""
    return end - max(0, (end - start - 32 - 1) // PAGE * PAGE)


def _shares_a_page(chunk: Chunk, free: tuple[int, int]) -> bool:
    """Whether a live chunk lies on the page on which a free range starts or ends, beside it."""
    start, end = free
    before = chunk.end <= start and chunk.end > start // PAGE * PAGE
    after = chunk.start >= end and chunk.start < -(-end // PAGE) * PAGE
    return before or after


# --- pymalloc pools ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PoolBuilder:
    """Lays pools out in 16 KiB slots, header first (pycore_obmalloc.h, struct pool_header)."""

    base: int = BASE & -MIB
    slots: list[bytes] = field(default_factory=list)

    def pool(self, *, blocks: int, size: int, arena: int = 0, freeblock: int | None = None) -> PoolBuilder:
        """Put a pool of blocks of `size` bytes, of which `blocks` are live."""
        address = self.base + len(self.slots) * POOL
        free = address + 48 if freeblock is None else freeblock
        index = size // 16 - 1
        return self.raw(
            struct.pack("=I4xQQQIIII", blocks, free, address, address, arena, index, 48 + blocks * size, POOL - size)
        )

    def raw(self, header: bytes) -> PoolBuilder:
        """Put a slot that starts with `header`."""
        self.slots.append(header.ljust(POOL, b"\0"))
        return self

    def nothing(self) -> PoolBuilder:
        """Put a slot that was never a pool."""
        return self.raw(b"")

    @property
    def end(self) -> int:
        """The address behind the last slot."""
        return self.base + len(self.slots) * POOL

    def memory(self, *, absent: Iterable[int] = ()) -> FakeMemory:
        """Return the pools' memory; `absent`: indices of pages that are not resident."""
        return FakeMemory(b"".join(self.slots), base=self.base, absent=absent)


# --- values -----------------------------------------------------------------------------------------------------


def accounts(growth: int = 0, **known: int | None) -> dict[Account, int | None]:
    """Return accounts that sum to `growth`, those in `known` by their names; the others are zero."""
    given: dict[Account, int | None] = {account: 0 for account in Account if account is not Account.UNEXPLAINED}
    return booked(growth, {**given, **{Account(name): size for name, size in known.items()}})


def evidence(growth: int = 0, **changes: Any) -> Evidence:  # noqa: ANN401 - fields of Evidence
    """Return evidence of `growth`; the accounts are given by name, other fields by theirs."""
    names = {account.value for account in Account}
    known = {name: changes.pop(name) for name in list(changes) if name in names}
    fields: dict[str, Any] = {
        "growth": growth,
        "growth_untrimmed": growth,
        "accounts": accounts(growth, **known),
        "allocated": 0,
        **changes,
    }
    return Evidence(**fields)


def malloc_stats(**changes: int | None) -> MallocStats:
    """Return malloc statistics, zero but for `changes`."""
    return replace(MallocStats(arena=0, hblks=0, hblkhd=0, fsmblks=0, uordblks=0, fordblks=0), **changes)  # type: ignore[arg-type]


def pool_stats(**changes: int) -> PoolStats:
    """Return pymalloc statistics with arenas of 1 MiB, zero but for `changes`."""
    return replace(PoolStats(arenas=0, arena_size=MIB, used_pools=0, unused_pools=0, allocated=0), **changes)


def snapshot(*mappings: Region, **changes: Any) -> Snapshot:  # noqa: ANN401 - fields of Snapshot
    """Return a reading of `mappings`, whose RSS and address space are theirs unless told otherwise."""
    own = changes.get("own", 0)
    fields: dict[str, Any] = {
        "rss": sum(each.rss for each in mappings) - own,
        "vm_size": sum(each.size for each in mappings),
        "mappings": mappings,
        **changes,
    }
    return Snapshot(**fields)


def result(outcome: Outcome, growth: int, **changes: Any) -> Result:  # noqa: ANN401 - fields of Result
    """Return a measurement of a process of 100 MiB that grew by `growth`; accounts are given by name."""
    names = {account.value for account in Account}
    known = {name: changes.pop(name) for name in list(changes) if name in names}
    verdict = {name: changes.pop(name) for name in ("masked", "over_budget", "why") if name in changes}
    limit = Limit(tolerance=changes.pop("tolerance", 4 * MIB), budget=changes.pop("budget", None))
    fields: dict[str, Any] = {
        "verdict": Verdict(outcome=outcome, **verdict),
        "limit": limit,
        "trim": False,
        "basis": Basis.CENSUS,
        "accounts": accounts(growth, **{"free_heap": None, **known}),
        "rss_untrimmed": 100 * MIB,
        "rss_before": 100 * MIB,
        "rss_after": 100 * MIB + growth,
        "rss_settled": 100 * MIB + growth,
        "collected": 0,
        "allocated": 0,
        **changes,
    }
    return Result(**fields)


def record(nodeid: str = "tests/test_a.py::test_b", **changes: Any) -> Record:  # noqa: ANN401 - fields of Record
    """Return the record of a test that returned its memory, but for `changes`."""
    fields: dict[str, Any] = {
        "nodeid": nodeid,
        "outcome": Outcome.RETURNED,
        "tolerance": 4 * MIB,
        "rss_untrimmed": 100 * MIB,
        "rss_before": 100 * MIB,
        "rss_after": 100 * MIB,
        "rss_settled": 100 * MIB,
        "growth": 0,
        "allocated": 0,
        "held": 0,
        "retained": 0,
        "collected": 0,
        "accounts": accounts(0),
        **changes,
    }
    return Record(**fields)


def census(*heaps: Heap, **changes: Any) -> Census:  # noqa: ANN401 - fields of Census
    """Return a census that found `heaps`."""
    return Census(heaps=heaps, **changes)
