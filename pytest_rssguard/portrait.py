"""One process's memory at one instant, as one screen of text and as JSON. Pure: yields lines, prints nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final

from pytest_rssguard import heapmap, ledger
from pytest_rssguard.explain import MEANING, block_size, pinning
from pytest_rssguard.model import HELD, RETAINED, Account, Census, Heap, Snapshot
from pytest_rssguard.owners import arena_numbers, owned
from pytest_rssguard.regions import has_known_pools, pythons
from pytest_rssguard.units import format_size

_WIDTH: Final = 78
_MAPPINGS: Final = 6
_ARENAS: Final = 5
#: A heap map is drawn in lines of at most this width, if there is room for the least of it.
_MAP_MOST: Final = 128
_MAP_LEAST: Final = 64
_MAP_ROWS: Final = 8
#: What is told of each arena in JSON: fields of model.Heap.
_OF_ARENA: Final = ("live", "live_blocks", "untouched", "pinned", "pinned_pages", "trimmable", "arena_top", "tcache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """What was read of process `pid`, called `name`.

    `ps_rss`: RSS as statm has it, which ps shows; on kernels before 6.12 it may be off. `private`: libraries with an
    allocator of their own. `stopped`: whether it was stopped for the read. `seconds`: how long the read took.
    """

    pid: int
    name: str
    snapshot: Snapshot
    census: Census
    ps_rss: int | None = None
    private: tuple[str, ...] = ()
    stopped: bool = False
    seconds: float = 0.0

    @property
    def accounts(self) -> Mapping[Account, int | None]:
        """Every account in bytes; they sum to RSS."""
        return ledger.totals(self.snapshot, self.census)

    @property
    def trim(self) -> int | None:
        """What malloc_trim(0) would give back now, in bytes; None where no heap of glibc was read."""
        return sum(heap.trimmable for heap in self.census.heaps) if self.census.heaps else None


def with_private(portrait: Portrait, libraries: tuple[str, ...]) -> Portrait:
    """Return the portrait with the libraries that have an allocator of their own."""
    return replace(portrait, private=libraries)


def notes(portrait: Portrait) -> Iterator[str]:
    """Yield what could not be known, and why."""
    census, snapshot = portrait.census, portrait.snapshot
    for problem in census.problems:
        yield f"NOT DIVIDED: {problem}"
    if census.problems:
        yield "what malloc and Python hold is in unexplained and mapped" + (
            "" if portrait.stopped else "; --stop reads it at rest"
        )
    elif not census.heaps:
        yield (
            "no heap of glibc's malloc was found: another allocator, a C library other than glibc (musl), or 32 bits. "
            "What is live and what is freed cannot be told apart: it is in mapped and unexplained"
        )
    for python in sorted(pythons(snapshot.mappings)):
        if not has_known_pools(python):
            name = f"Python {python[0]}.{python[1]}{'t' if python[2] else ''}"
            yield f"{name} keeps its small objects in a form that is not known here: they are in mapped"
    if taken := _taken(census):
        yield f"something other than malloc took {format_size(taken)} of [heap] (sbrk): it is in unexplained"
    if portrait.private:
        yield f"allocators of their own, whose live and freed memory is in mapped: {', '.join(portrait.private)}"
    if not snapshot.all_stacks_known:
        yield "not every thread's stack pointer could be read: memory shaped like a stack is taken for one"
    if portrait.ps_rss is not None and abs(portrait.ps_rss - snapshot.rss) >= 1 << 20:
        yield f"ps shows {format_size(portrait.ps_rss)}: this kernel's quick counter is not exact"


def _taken(census: Census) -> int:
    """Return how many bytes others took between the parts of the main heap."""
    parts = sorted((heap for heap in census.heaps if heap.main), key=lambda heap: heap.start)
    beyond = census.beyond > 0  # then parts lie in mappings of their own: what is between them is not of [heap]
    return 0 if beyond else sum(after.start - before.end for before, after in pairwise(parts))


def lines(portrait: Portrait, *, columns: int = 80) -> Iterator[str]:
    """Yield the screen, at most 78 columns wide but for the heap map, which takes what `columns` gives."""
    snapshot, census, accounts = portrait.snapshot, portrait.census, portrait.accounts
    threads = f"{snapshot.threads:,} thread{'s' if snapshot.threads != 1 else ''}"
    how = "stopped for it" if portrait.stopped else "running"
    yield f"process {portrait.pid} ({portrait.name}), {threads}, read in {portrait.seconds:.2f} s, {how}"
    yield ""
    yield f"RSS            {format_size(snapshot.rss):>9} 100%  the sum of the accounts below"
    yield from _account_lines(accounts, snapshot.rss, divided=bool(census.heaps))
    unknown = [account.value for account in Account if accounts[account] is None and account is not Account.FREE_HEAP]
    if unknown:
        yield from _wrap("unknown", ", ".join(unknown) + " (their bytes are in unexplained or mapped)")
    for note in notes(portrait):
        yield from _wrap("note", note)
    yield from _malloc_lines(portrait)
    if census.pools and census.pools.arenas:
        pools = census.pools
        yield from _wrap(
            "pymalloc",
            f"{pools.arenas:,} arenas of 1 MiB with {pools.used:,} pools in use and {pools.free:,} free; "
            f"{pools.live_blocks:,} live blocks in {format_size(pools.live)}, {format_size(pools.resident - pools.live)} free",
        )
    yield ""
    yield "largest       resident      mapped  owner"
    for entry in owned(snapshot, census)[:_MAPPINGS]:
        name = entry.name.rsplit("/", 1)[-1]
        yield f"{format_size(entry.rss):>22}  {format_size(entry.size):>10}  {entry.owner}, {name}"[:_WIDTH]
    yield from _maps(census, columns)


def _account_lines(accounts: Mapping[Account, int | None], rss: int, *, divided: bool) -> Iterator[str]:
    def line(name: str, size: int, meaning: str) -> str:
        return f"{name:<15}{format_size(size):>9} {100 * size / max(rss, 1):>3.0f}%  {meaning}"

    for members, name, meaning in (
        (HELD, "held", "the program still has it" if divided else "at most: freed memory may be in mapped"),
        (RETAINED, "retained", "the program freed it" if divided else "at least: see the note"),
    ):
        yield line(f"  {name}", sum(accounts[account] or 0 for account in members), meaning)
        for account in members:
            if accounts[account]:
                yield line(f"    {account.value}", accounts[account] or 0, MEANING[account])
    for account in (Account.FILE, Account.UNEXPLAINED):
        yield line(f"  {account.value}", accounts[account] or 0, MEANING[account])


def _malloc_lines(portrait: Portrait) -> Iterator[str]:
    census = portrait.census
    if portrait.trim is None:
        return
    rows = [(_arena_name(number), heaps) for number, heaps in _by_arena(census)]
    rows.sort(key=lambda row: -sum(_resident(heap) for heap in row[1]))
    yield ""
    yield "malloc              live     pinned  trimmable        top     tcache"
    for name, heaps in rows[:_ARENAS]:
        yield _arena_line(name, heaps)
    if len(rows) > _ARENAS:
        yield _arena_line(f"{len(rows) - _ARENAS:,} others", [heap for _, heaps in rows[_ARENAS:] for heap in heaps])
    if census.chunks:
        yield f"large blocks  {format_size(census.chunk_resident):>10}  {census.chunks:,} with a mapping of their own"
    at_end = sum(heap.top_trimmable for heap in census.heaps)
    yield from _wrap(
        "trim",
        f"malloc_trim(0) would give back {format_size(portrait.trim)}"
        + (f", {format_size(at_end)} of it at the end of the main heap" if at_end else ""),
    )
    if sum(heap.pinned for heap in census.heaps) > 64 << 10:
        yield from _wrap("pinned by", pinning(census))


def _arena_name(number: int) -> str:
    return f"arena {number}" if number else "main arena"


def _by_arena(census: Census) -> list[tuple[int, list[Heap]]]:
    numbers = arena_numbers(census)
    found: dict[int, list[Heap]] = {number: [] for number in numbers.values()}
    for heap in census.heaps:
        found[numbers[heap.arena]].append(heap)
    return sorted(found.items())


def _resident(heap: Heap) -> int:
    return heap.live + heap.pinned + heap.trimmable + heap.arena_top + heap.tcache


def _arena_line(name: str, heaps: list[Heap]) -> str:
    sizes = (
        sum(heap.live for heap in heaps), sum(heap.pinned for heap in heaps), sum(heap.trimmable for heap in heaps),
        sum(heap.arena_top for heap in heaps), sum(heap.tcache for heap in heaps),
    )  # fmt: skip
    return f"{name:<14}" + " ".join(f"{format_size(size):>10}" for size in sizes)


def _maps(census: Census, columns: int) -> Iterator[str]:
    room = min(columns - 2, _MAP_MOST)
    drawn = heapmap.draw(census)
    if room < _MAP_LEAST or not drawn:
        return
    largest = max(drawn, key=lambda map_: sum(count for letter, count in heapmap.decode(map_.cells) if letter != "."))
    yield ""
    head, *rows = heapmap.lines(largest, width=room, rows=_MAP_ROWS)
    yield head
    yield heapmap.LEGEND
    yield from rows


def _wrap(label: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=f"{label:<14}", subsequent_indent=" " * 14, break_long_words=False, break_on_hyphens=False
    )


def to_json(portrait: Portrait) -> dict[str, Any]:
    """Return the portrait as JSON values: `accounts` have the names of the report's, and sum to `rss`. Sizes in bytes."""
    snapshot, census, accounts = portrait.snapshot, portrait.census, portrait.accounts
    return {
        "pid": portrait.pid,
        "name": portrait.name,
        "rss": snapshot.rss,
        "accounts": {account.value: accounts[account] for account in Account},
        "held": ledger.held(accounts),
        "retained": ledger.retained(accounts),
        "divided": census.closes,
        "notes": list(notes(portrait)),
        "ps_rss": portrait.ps_rss,
        "threads": snapshot.threads,
        "trim": portrait.trim,
        "malloc": asdict(snapshot.malloc) if snapshot.malloc else None,
        "arenas": [
            {
                "arena": number,
                "size": sum(heap.end - heap.start for heap in heaps),
                **{
                    name: sum(getattr(heap, name) for heap in heaps)
                    for name in _OF_ARENA
                },
            }
            for number, heaps in _by_arena(census)
        ],
        "large_blocks": {"count": census.chunks, "size": census.chunk_bytes, "resident": census.chunk_resident},
        "pools": asdict(census.pools) if census.pools else None,
        "pins": [
            {"blocks": blocks, "chunk": size, "meaning": block_size(size)}
            for size, blocks in sorted(census.pins.items(), key=lambda pin: -pin[1])
        ],
        "mappings": [asdict(entry) for entry in owned(snapshot, census)],
        "heap_map": [asdict(map_) for map_ in heapmap.draw(census)],
        "stopped": portrait.stopped,
        "seconds": round(portrait.seconds, 4),
    }  # fmt: skip
