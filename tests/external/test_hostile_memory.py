"""Corrupted heaps, pools, tables and smaps texts: the walkers answer or refuse, soon, and take no memory to speak of."""

from __future__ import annotations

import os
import random
import struct
from contextlib import suppress

import pytest

from pytest_rssguard import census, heaps, heapwalk, poolscan
from pytest_rssguard.arenas import ArenaState
from pytest_rssguard.errors import InconsistentMemoryError, UnreadableError
from pytest_rssguard.image import Image
from pytest_rssguard.model import Region
from pytest_rssguard.smaps import parse_smaps, parse_stack_pointer, parse_thread_state

BASE = 0x5555_5555_0000
SIZE = 1 << 18
#: Words that a broken or hostile program would put where a size, a link or a count belongs.
EVIL = (0, 1, 16, 17, 31, 32, 33, 2**63, 2**64 - 1, 2**64 - 16, BASE, BASE + 8, BASE + SIZE, BASE - 16, 0x291, SIZE, SIZE | 1)


class Words:
    """A made-up memory of SIZE bytes at BASE, wholly resident."""

    def __init__(self, data: bytearray) -> None:
        self._words = memoryview(data).cast("Q")

    def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
        del end
        return (self._words, BASE, BASE + SIZE) if BASE <= address < BASE + SIZE else None

    def word(self, address: int) -> int | None:
        at = address - BASE
        return int(self._words[at >> 3]) if 0 <= at <= SIZE - 8 else None

    def resident(self, start: int, end: int) -> int:
        return max(0, min(end, BASE + SIZE) - max(start, BASE))


def heap(dice: random.Random) -> bytearray:
    """A sound heap of random chunks, its last the top; the first has the size of a tcache's table."""
    data = bytearray(SIZE)
    at, in_use = 0, 1
    for size in [0x290, *(16 * dice.randint(2, 200) for _ in range(400))]:
        if at + size > SIZE - 64:
            break
        struct.pack_into("<Q", data, at + 8, size | in_use)
        in_use = dice.randint(0, 1)
        at += size
    struct.pack_into("<Q", data, at + 8, (SIZE - at) | in_use)
    return data


def damage(dice: random.Random, data: bytearray) -> None:
    for _ in range(dice.randint(1, 30)):
        at = 8 * dice.randrange(len(data) // 8)
        struct.pack_into("<Q", data, at, dice.choice((*EVIL, dice.getrandbits(64))))


@pytest.mark.parametrize("seed", range(200))
def test_damaged_memory(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - repeatable damage
    data = heap(dice)
    damage(dice, data)
    memory = Words(data)
    top = dice.choice((None, BASE, BASE + 16 * dice.randrange(SIZE // 16), BASE + SIZE))
    with suppress(InconsistentMemoryError):
        found = heapwalk.walk(memory, BASE, BASE + SIZE, top=top, key=dice.choice((None, 0, 5)), main=bool(seed % 2))
        assert found.live + found.tcache + found.pinned + found.trimmable + found.arena_top + found.metadata <= SIZE
        assert len(found.pins) <= 65 + 47
    pools, pieces = poolscan.scan(memory, [(BASE, BASE + SIZE)])
    assert pools.live <= pools.resident <= SIZE
    assert all(BASE <= piece.start < piece.end <= BASE + SIZE for piece in pieces)


@pytest.mark.parametrize("seed", range(100))
def test_damaged_texts_of_proc(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - repeatable damage
    with open("/proc/self/smaps", "rb") as file:  # noqa: PTH123 - a sound one to damage
        text = bytearray(file.read(20000))
    for _ in range(dice.randint(1, 40)):
        text[dice.randrange(len(text))] = dice.randrange(256)
    del text[dice.randrange(len(text)) :]
    with suppress(UnreadableError):
        for region in parse_smaps(memoryview(bytes(text))):
            assert region.start < region.end
    parse_stack_pointer(bytes(text[:200]))
    parse_thread_state(bytes(text[:200]))


@pytest.mark.parametrize("seed", range(60))
def test_damaged_heap_of_a_process(seed: int) -> None:
    """Arena lists, fastbins and tops of this process, as seen with some words exchanged: every pointer may be wrong."""
    dice = random.Random(seed)  # noqa: S311 - repeatable damage

    class Damaged(Image):
        """This process, where one in so many words reads as something else."""

        def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
            view = super().window(address, end)
            if view is not None and dice.random() < 0.3:
                words, base, limit = view
                for _ in range(dice.randint(1, 60)):
                    words[dice.randrange((limit - base) >> 3)] = dice.choice((*EVIL, dice.getrandbits(64)))
            return view

        def word(self, address: int) -> int | None:
            return dice.choice(EVIL) if dice.random() < 0.05 else super().word(address)

    with open("/proc/self/smaps", "rb") as file, Damaged("self") as image:  # noqa: PTH123 - see above
        regions: list[Region] = list(parse_smaps(memoryview(file.read())))
        found = census.take(image, regions, key=None, learn_key=True, draw=True)
    assert all(0 <= heap.start < heap.end for heap in found.heaps)


def test_addresses_that_no_process_has_are_not_resident() -> None:
    with Image(os.getpid()) as image:
        for address in (2**63, 2**64 - 4096, 1 << 57, 0):
            assert image.window(address, address + 4096) is None
            assert image.word(address) is None
            assert image.resident(address, address + 4096) == 0
        assert image._can_scan or _kernel() < (6, 7)  # PAGEMAP_SCAN; without it zero pages count as resident


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


def test_ring_of_fastbins_ends() -> None:
    """A fastbin whose chunks point at each other is followed once round, not for ever."""
    first, second = 0x10000, 0x20000

    class Ring:
        def word(self, address: int) -> int | None:
            chunk = address & -4096
            other = second if chunk == first else first
            return 33 if address & 15 == 8 else other ^ ((chunk + 16) >> 12)

    state = ArenaState(
        bins=0, top=16, fastbins=(first,) + (0,) * 9, next=8, system_mem=1 << 46, end=0
    )  # fmt: skip
    marks = heaps._fastbins(Ring(), state)  # type: ignore[arg-type]
    assert marks is not None
    assert int.from_bytes(marks[:8], "little") < 16
