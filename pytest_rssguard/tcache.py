"""Learn a process's tcache key from its memory: the word by which free() marks the blocks that threads cache.

Source: glibc malloc/malloc.c 2.36-2.43, tcache_put: a cached block holds {next, mangled with its own address; key}, the
key one random constant of the process (2.34+; earlier ones have none that is the same for all threads). The heads of the
lists stand in the first chunk of an arena, where a thread's tcache table usually is; if none is found there, the end of
a list is looked for in all chunks: its first word is its own address >> 12.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pytest_rssguard.arenas import HEAP_MAX
from pytest_rssguard.heaps import Arena
from pytest_rssguard.model import Memory

#: The largest chunk in a tcache by default, and the most that a tcache table takes (2.42: 76 lists).
_CACHED: Final = 1040
_TABLE: Final = 1024
#: No more arenas are asked, and no more candidates kept: a key shows at once or not at all.
_ARENAS: Final = 256
_CANDIDATES: Final = 4096
#: A random 64-bit word is below this once in 2**16 processes; addresses and counts always are.
_RANDOM: Final = 1 << 48


def learn(memory: Memory, arenas: Sequence[Arena]) -> int | None:
    """Return the tcache key of the process behind `memory`, or None where no block is cached."""
    spans = [(first & -HEAP_MAX if not arena.main else first, end) for arena in arenas for first, end in arena.heaps]
    if not spans:
        return None
    return _most(_heads(memory, arenas[:_ARENAS], spans)) or _most(_ends(memory, arenas))


def _most(keys: Iterable[int]) -> int | None:
    counts: Counter[int] = Counter()
    for key in keys:
        if key >= _RANDOM and (key in counts or len(counts) < _CANDIDATES):
            counts[key] += 1
    return counts.most_common(1)[0][0] if counts else None


def _is_in(spans: Sequence[tuple[int, int]], address: int) -> bool:
    return any(start <= address < end for start, end in spans)


def _heads(memory: Memory, arenas: Iterable[Arena], spans: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield the key of each block that the first chunk of an arena points at, if it is cached."""
    for arena in arenas:
        if not arena.heaps:
            continue
        first, end = arena.heaps[-1]
        size = (memory.word(first + 8) or 0) & -8
        for at in range(first + 16, min(first + min(size, _TABLE), end - 8), 8):
            block = memory.word(at) or 0
            if block & 15 or not _is_in(spans, block):
                continue
            chunk, link, key = memory.word(block - 8), memory.word(block), memory.word(block + 8)
            if chunk is None or link is None or not key or not 32 <= chunk & -8 <= _CACHED:
                continue
            next_ = link ^ (block >> 12)
            if next_ == 0 or (not next_ & 15 and _is_in(spans, next_) and memory.word(next_ + 8) == key):
                yield key


def _ends(memory: Memory, arenas: Iterable[Arena]) -> Iterator[int]:
    """Yield the second word of every chunk that ends a list of cached blocks, or looks as if it did."""
    for arena in arenas:
        for first, end in arena.heaps:
            yield from _ends_in(memory, first, end, arena.state.top)


def _ends_in(memory: Memory, first: int, end: int, top: int) -> Iterator[int]:
    address = first
    while address < end and address != top:
        view = memory.window(address, end)
        if view is None:
            return
        words, base, limit = view
        count = (limit - base) >> 3
        i = (address - base) >> 3
        stop = address
        while i + 4 <= count and address != top:
            size = words[i + 1] & -8
            if size < 32 or size & 15:
                return
            if size <= 1040 and words[i + 2] == address + 16 >> 12:
                yield words[i + 3]
            address += size
            i += size >> 3
        if address == stop:
            return
