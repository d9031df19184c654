from __future__ import annotations

import struct
from typing import Final

from pytest_rssguard.arenas import ArenaState
from pytest_rssguard.heaps import Arena
from pytest_rssguard.tcache import learn
from tests.builders import BASE, KEY, FakeMemory, HeapBuilder

RANDOM: Final = KEY | 1 << 63


def arena(heap: HeapBuilder) -> Arena:
    state = ArenaState(bins=0, top=heap.top or 0, fastbins=(), next=0, system_mem=heap.end - heap.base, end=0)
    return Arena(state=state, heaps=((heap.first, heap.end),), main=True)


def memory(heap: HeapBuilder, *words: tuple[int, int]) -> FakeMemory:
    """Return the heap's memory with (address, word) written over it."""
    data = bytearray(heap.data())
    for address, word in words:
        struct.pack_into("=Q", data, address - heap.base, word)
    return FakeMemory(bytes(data), base=heap.base)


def ending(chunk: int) -> tuple[int, int]:
    """Return what free() writes into the last block of a list: its own address, mangled with no next one."""
    return chunk + 16, (chunk + 16) >> 12


def test_the_key_is_what_the_blocks_have_that_the_table_points_at() -> None:
    heap = HeapBuilder(key=RANDOM).live(656).tcache(48).live(1008).tcache(64).ends_with_top()
    first, second = (chunk.start for chunk in heap.chunks if chunk.size in {48, 64})
    table = BASE + 16 + 128
    words = (table, first + 16), (table + 8, second + 16), ending(first), ending(second)
    assert learn(memory(heap, *words), [arena(heap)]) == RANDOM


def test_without_a_table_the_ends_of_lists_show_the_key() -> None:
    heap = HeapBuilder(key=RANDOM).live(48).live(2000).tcache(48).live(1008).tcache(64).ends_with_top()
    words = [ending(chunk.start) for chunk in heap.chunks if chunk.size in {48, 64}]
    assert learn(memory(heap, *words), [arena(heap)]) == RANDOM


def test_many_live_blocks_that_share_a_word_are_no_key() -> None:
    heap = HeapBuilder(key=RANDOM)
    for _ in range(200):
        heap.tcache(48)  # live ones to a program that keeps a constant in each second word
    heap.ends_with_top()
    assert learn(memory(heap), [arena(heap)]) is None


def test_an_address_or_a_count_is_no_key() -> None:
    heap = HeapBuilder(key=BASE).tcache(48).tcache(48).ends_with_top()
    assert learn(memory(heap, *(ending(chunk.start) for chunk in heap.chunks)), [arena(heap)]) is None


def test_no_heap_has_no_key() -> None:
    assert learn(memory(HeapBuilder().live(48).ends_with_top()), []) is None


def test_an_arena_without_a_heap_tells_nothing_of_the_others() -> None:
    heap = HeapBuilder(key=RANDOM).live(656).tcache(48).ends_with_top()
    (chunk,) = (chunk.start for chunk in heap.chunks if chunk.size == 48)
    found = memory(heap, (BASE + 16 + 128, chunk + 16), ending(chunk))
    state = ArenaState(bins=0, top=0, fastbins=(), next=0, system_mem=0, end=0)
    assert learn(found, [Arena(state=state, heaps=(), main=False), arena(heap)]) == RANDOM


def test_a_block_whose_next_one_is_no_block_of_the_heap_is_not_believed() -> None:
    heap = HeapBuilder(key=RANDOM).live(656).tcache(48).ends_with_top()
    (chunk,) = (chunk.start for chunk in heap.chunks if chunk.size == 48)
    assert learn(memory(heap, (BASE + 16 + 128, chunk + 16), (chunk + 16, 1 << 40)), [arena(heap)]) is None


def test_lists_are_looked_for_as_far_as_the_heap_can_be_read() -> None:
    heap = HeapBuilder(key=RANDOM).live(4096).live(4096).tcache(48).ends_with_top()
    (chunk,) = (chunk.start for chunk in heap.chunks if chunk.size == 48)
    whole = memory(heap, ending(chunk))
    assert learn(whole, [arena(heap)]) == RANDOM
    whole.absent = frozenset({1})  # the header of the second block
    assert learn(whole, [arena(heap)]) is None
    broken = memory(heap, ending(chunk), (heap.chunks[1].start + 8, 3))
    assert learn(broken, [arena(heap)]) is None


def test_a_header_that_ends_on_a_page_that_is_not_here_ends_the_search() -> None:
    heap = HeapBuilder(key=RANDOM).live(4080).tcache(48).ends_with_top()
    (chunk,) = (chunk.start for chunk in heap.chunks if chunk.size == 48)
    found = memory(heap, ending(chunk))
    found.absent = frozenset({1})
    assert learn(found, [arena(heap)]) is None
