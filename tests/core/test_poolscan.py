from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.model import Kind, Piece, Pools
from pytest_rssguard.poolscan import Pool, read_pool, scan
from tests.builders import BASE, MIB, PAGE, POOL, FakeMemory, PoolBuilder

START = PoolBuilder().base


def header(
    *,
    count: int = 3,
    freeblock: int = START + 48,
    arena: int = 0,
    index: int = 1,
    next_offset: int = 144,
    max_offset: int = POOL - 32,
) -> bytes:
    return struct.pack("=I4xQQQIIII", count, freeblock, START, START, arena, index, next_offset, max_offset)


def read(memory: FakeMemory) -> Pool | None:
    """Return the pool at START, if one is there."""
    view = memory.window(START, START + 48)
    assert view is not None
    return read_pool(view[0], (START - view[1]) >> 3, START)


def test_a_pool_is_known_by_its_header() -> None:
    assert read(PoolBuilder().raw(header()).memory()) == Pool(0, 3, 32)


def test_a_full_pool_has_no_free_block() -> None:
    most = (POOL - 48) // 32
    full = PoolBuilder().raw(header(count=most, freeblock=0, next_offset=48 + most * 32))
    assert read(full.memory()) == Pool(0, most, 32)


@pytest.mark.parametrize(
    "bad",
    [
        header(index=32),
        header(index=0xFFFFFFFF),
        header(max_offset=POOL - 48),
        header(next_offset=47),
        header(next_offset=POOL + 1),
        header(count=(POOL - 48) // 32 + 1),
        header(freeblock=START - 16),
        header(freeblock=START + POOL),
        bytes(48),
        b"\xff" * 48,
    ],
)
def test_what_only_resembles_a_header_is_no_pool(bad: bytes) -> None:
    assert read(PoolBuilder().raw(bad).memory()) is None


def test_a_slot_that_is_not_resident_is_no_pool() -> None:
    found, pieces = scan(PoolBuilder().pool(blocks=1, size=16).memory(absent=[0]), [(START, START + POOL)])
    assert (found.arenas, pieces) == (0, [])


def test_a_slot_that_ends_before_its_header_does_is_no_pool() -> None:
    class Short(FakeMemory):
        def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
            found = super().window(address, end)
            return found and (found[0][:5], found[1], found[1] + 40)

    found, pieces = scan(Short(header().ljust(POOL, b"\0"), base=START), [(START, START + POOL)])
    assert (found.arenas, pieces) == (0, [])


def test_a_scan_sums_up_the_pools_of_each_arena() -> None:
    pools = (
        PoolBuilder()
        .pool(blocks=10, size=64, arena=4)
        .nothing()
        .pool(blocks=0, size=512, arena=4)
        .pool(blocks=5, size=16, arena=7)
        .nothing()
    )
    found, pieces = scan(pools.memory(), [(START, pools.end)])
    assert found == Pools(resident=3 * POOL, live=720, live_blocks=15, used=2, free=1, arenas=2)
    assert pieces == [
        Piece(kind=Kind.ARENA, start=START, end=START + 3 * POOL, resident=2 * POOL),
        Piece(kind=Kind.ARENA, start=START + 3 * POOL, end=START + 4 * POOL, resident=POOL),
    ]


def test_two_arenas_that_share_an_index_are_told_apart_by_their_distance() -> None:
    pools = PoolBuilder().pool(blocks=1, size=16)
    for _ in range(63):
        pools.nothing()
    pools.pool(blocks=1, size=16)
    found, pieces = scan(pools.memory(), [(START, pools.end)])
    assert (found.arenas, len(pieces)) == (2, 2)


def test_one_arena_is_at_most_a_mebibyte() -> None:
    pools = PoolBuilder()
    for _ in range(65):
        pools.pool(blocks=1, size=16)
    assert [piece.end - piece.start for piece in scan(pools.memory(), [(START, pools.end)])[1]] == [MIB, POOL]


def test_pages_of_a_pool_that_were_given_back_are_not_resident() -> None:
    pools = PoolBuilder().pool(blocks=2, size=32)
    found, _ = scan(pools.memory(absent=[2, 3]), [(START, pools.end)])
    assert found.resident == 2 * PAGE


def test_every_range_starts_an_arena_of_its_own() -> None:
    pools = PoolBuilder().pool(blocks=1, size=16).pool(blocks=1, size=16)
    found, pieces = scan(pools.memory(), [(START, START + POOL), (START + POOL, START + 2 * POOL)])
    assert (found.arenas, len(pieces)) == (2, 2)


def test_ranges_that_hold_no_whole_aligned_slot_hold_no_pool() -> None:
    pools = PoolBuilder().pool(blocks=1, size=16)
    assert scan(pools.memory(), [(START + 16, START + POOL)]) == (Pools(), [])
    assert scan(pools.memory(), [(START, START + POOL - 16)]) == (Pools(), [])
    assert scan(pools.memory(), []) == (Pools(), [])


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.tuples(st.integers(1, 32).map(lambda n: n * 16), st.integers(0, 31), st.integers(0, 3)),
        ),
        max_size=40,
    )
)
def test_a_scan_finds_exactly_what_the_builder_put_there(slots: list[tuple[int, int, int] | None]) -> None:
    pools = PoolBuilder()
    for slot in slots:
        if slot is None:
            pools.nothing()
        else:
            pools.pool(blocks=slot[1], size=slot[0], arena=slot[2])
    there = [slot for slot in slots if slot is not None]
    found, pieces = scan(pools.memory(), [(START, pools.end)])
    assert found.live == sum(size * blocks for size, blocks, _ in there)
    assert found.live_blocks == sum(blocks for _, blocks, _ in there)
    assert (found.used, found.free) == (
        sum(blocks > 0 for _, blocks, _ in there),
        sum(not blocks for _, blocks, _ in there),
    )
    assert found.resident == POOL * len(there) == sum(piece.resident for piece in pieces)
    arenas = [arena for _, _, arena in there]
    assert found.arenas == len(pieces) == sum(a != b for a, b in zip([None, *arenas], arenas, strict=False))


@settings(deadline=None)
@given(
    data=st.lists(
        st.one_of(st.binary(max_size=64), st.builds(header, count=st.integers(0, 600), index=st.integers(0, 40))),
        max_size=12,
    ),
    absent=st.sets(st.integers(0, 48), max_size=8),
    start=st.integers(-2 * POOL, 4 * POOL),
    length=st.integers(-POOL, 20 * POOL),
)
def test_random_memory_is_scanned_without_error(data: list[bytes], absent: set[int], start: int, length: int) -> None:
    memory = FakeMemory(b"".join(each.ljust(POOL, b"\xa5") for each in data), base=BASE & -POOL, absent=absent)
    found, pieces = scan(memory, [(memory.base + start, memory.base + start + length)])
    assert found.resident == sum(piece.resident for piece in pieces)
    assert found.used + found.free <= len(data)
