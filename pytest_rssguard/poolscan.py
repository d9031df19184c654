"""Recognise pymalloc pools by their headers.

Pure: reads words through a Memory. Source: CPython Include/internal/pycore_obmalloc.h, struct pool_header, the same in
3.11-3.15: {u32 count; ptr freeblock, nextpool, prevpool; u32 arenaindex, szidx, nextoffset, maxnextoffset}. A pool is
16 KiB and aligned to that; an arena is 1 MiB of them. A pool whose count is 0 was used and is free.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from pytest_rssguard.model import Kind, Memory, Piece, Pools

POOL: Final = 16384
ARENA: Final = 1 << 20
_OVERHEAD: Final = 48
_CLASSES: Final = 32


class Pool(NamedTuple):
    """One pool: the arena it belongs to, how many blocks of how many bytes are live."""

    arena: int
    blocks: int
    size: int


def read_pool(words: memoryview, at: int, address: int) -> Pool | None:
    """Return the pool whose header is `words[at]` and the five words behind it, at `address`, or None if it is no header."""
    indices, offsets = words[at + 4], words[at + 5]
    size_index = indices >> 32
    if size_index >= _CLASSES:
        return None
    size = (size_index + 1) * 16
    if offsets >> 32 != POOL - size or not _OVERHEAD <= offsets & 0xFFFFFFFF <= POOL:
        return None
    count, freeblock = words[at] & 0xFFFFFFFF, words[at + 1]
    if count > (POOL - _OVERHEAD) // size or (freeblock and not address <= freeblock < address + POOL):
        return None
    return Pool(indices & 0xFFFFFFFF, count, size)


def scan(memory: Memory, ranges: Iterable[tuple[int, int]]) -> tuple[Pools, list[Piece]]:
    """Return the sums over all pools in `ranges` of (start, end), and the ranges that the arenas cover.

    A piece spans from the first to the last pool of one arena: what lies between is never-touched pools.
    """
    live = blocks = used = free = resident = arenas = 0
    pieces: list[Piece] = []
    for start, end in ranges:
        first, last, index, arena_resident = 0, 0, -1, 0
        base = limit = 0
        for address in range((start + POOL - 1) & -POOL, end & -POOL, POOL):
            if not base <= address <= limit - _OVERHEAD:
                if (view := memory.window(address, end)) is None:
                    continue
                words, base, limit = view
                if limit - address < _OVERHEAD:
                    continue
            pool = read_pool(words, (address - base) >> 3, address)
            if pool is None:
                continue
            if pool.arena != index or address + POOL - first > ARENA:
                if first:
                    pieces.append(Piece(kind=Kind.ARENA, start=first, end=last, resident=arena_resident))
                first, index, arena_resident = address, pool.arena, 0
                arenas += 1
            last = address + POOL
            arena_resident += POOL if last <= limit else memory.resident(address, last)
            live += pool.blocks * pool.size
            blocks += pool.blocks
            used += pool.blocks > 0
            free += pool.blocks == 0
        if first:
            pieces.append(Piece(kind=Kind.ARENA, start=first, end=last, resident=arena_resident))
    resident = sum(piece.resident for piece in pieces)
    return Pools(resident=resident, live=live, live_blocks=blocks, used=used, free=free, arenas=arenas), pieces
