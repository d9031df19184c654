"""Say who owns each mapping of a process: a file, an allocator, a thread, or nobody that is known.

Pure. One entry for all mappings of a file, for all heaps of an arena; anonymous mappings that touch are one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pytest_rssguard.arenas import HEAP_MAX
from pytest_rssguard.model import Census, Heap, Kind, Region, Snapshot
from pytest_rssguard.regions import is_anonymous, is_shared_memory
from pytest_rssguard.units import format_size

#: An owner with less than this share of an anonymous mapping is not named.
_SHARE: Final = 0.1
UNKNOWN: Final = "mmap, owner unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A mapping or several of one owner: `size` bytes of address space, of which `rss` are resident."""

    name: str
    size: int
    rss: int
    owner: str


def arena_numbers(census: Census) -> dict[int, int]:
    """Return the number of each arena by its address: 0 is the main one."""
    numbers: dict[int, int] = {}
    for heap in census.heaps:
        numbers.setdefault(heap.arena, len(numbers))
    return numbers


def owned(snapshot: Snapshot, census: Census) -> list[Owned]:
    """Return who owns the process's memory, the most resident first. The `rss` of all sum to the snapshot's."""
    found: dict[tuple[str, str], list[int]] = {}
    for name, owner, region in _named(snapshot, census):
        sizes = found.setdefault((name, owner), [0, 0])
        sizes[0] += region.size
        sizes[1] += region.rss
    entries = [Owned(name=name, size=size, rss=rss, owner=owner) for (name, owner), (size, rss) in found.items()]
    return sorted(entries, key=lambda entry: (-entry.rss, entry.name))


def _named(snapshot: Snapshot, census: Census) -> Iterator[tuple[str, str, Region]]:
    numbers = arena_numbers(census)
    bases = {heap.start & -HEAP_MAX: numbers[heap.arena] for heap in census.heaps if not heap.main}
    bss_starts, bss_ends = [start for start, _ in census.bss], [end for _, end in census.bss]
    executable = {region.path for region in snapshot.mappings if "x" in region.perms}
    pointers = sorted(snapshot.stack_pointers)
    starts = [piece.start for piece in census.pieces]
    beyond = [heap for heap in census.heaps if heap.main]
    last_file, group, last_end = "", "", 0
    for region in snapshot.mappings:
        if region.path == "[heap]":
            yield "[heap]", "malloc, main heap" if census.heaps else "the program (brk)", region
        elif is_shared_memory(region):
            yield region.path or "shared memory", "shared memory", region
        elif not is_anonymous(region):
            last_file = region.path
            yield region.path, _owner_of_file(region, executable), region
        elif (number := bases.get(region.start & -HEAP_MAX)) is not None:
            yield f"thread arena {number}", "malloc", region
        elif (i := bisect_right(bss_starts, region.start) - 1) >= 0 and region.end <= bss_ends[i]:
            yield last_file, "library or program" if last_file in executable else "mapped file", region
        elif region.path.startswith("[stack"):
            yield region.path, "stack of the main thread", region
        elif bisect_right(pointers, region.end - 1) > bisect_right(pointers, region.start - 1):
            yield f"{region.start:x}", "stack of a thread", region
        else:
            if region.start != last_end or not group:
                group = f"{region.start:x}"
            last_end = region.end
            i = max(bisect_left(starts, region.start) - 1, 0)
            yield group, _owner_of_anonymous(region, census, i, beyond), region
            continue
        group = ""


def _owner_of_file(region: Region, executable: set[str]) -> str:
    if region.path.startswith("["):
        return "the kernel"
    return "library or program" if region.path in executable else "mapped file"


def _owner_of_anonymous(region: Region, census: Census, first: int, beyond: list[Heap]) -> str:
    resident = {"pymalloc": 0, "malloc, large blocks": 0, "malloc, main heap": 0}
    names = {Kind.ARENA: "pymalloc", Kind.CHUNK: "malloc, large blocks"}
    for piece in census.pieces[first:]:
        if piece.start >= region.end:
            break
        inside = min(piece.end, region.end) - max(piece.start, region.start)
        if inside > 0:
            resident[names[piece.kind]] += piece.resident * inside // (piece.end - piece.start)
    for heap in beyond:
        resident["malloc, main heap"] += max(0, min(heap.end, region.end) - max(heap.start, region.start))
    resident[UNKNOWN] = max(0, region.rss - sum(resident.values()))
    shown = [(size, name) for name, size in resident.items() if size > _SHARE * region.rss]
    if len(shown) == 1:
        return shown[0][1]
    return ", ".join(f"{name} {format_size(size)}" for size, name in sorted(shown, reverse=True)) or UNKNOWN
