from __future__ import annotations

import ctypes

from pytest_rssguard.allocators.glibc import Glibc, statistics
from tests.builders import MIB

CHUNKS = 120_000  # every other one freed: more than the 50,000 free ones from which on they are sorted


def test_sorting_free_chunks_takes_and_gives_nothing() -> None:
    glibc = Glibc()
    libc = ctypes.PyDLL(None)
    malloc, free = libc["malloc"], libc["free"]
    malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    blocks = [malloc(1056) for _ in range(CHUNKS)]
    for block in blocks[::2]:
        free(block)
    free(malloc(1500))  # the end of the heap is extended now, if it has to be
    before = statistics(glibc.mallinfo())
    glibc.sort_free()
    after = statistics(glibc.mallinfo())
    for block in blocks[1::2]:
        free(block)
    assert before.ordblks > 50_000  # else nothing was sorted
    # fast chunks are merged into others on the way: free before, free afterwards
    assert (after.arena, after.uordblks, after.fordblks) == (before.arena, before.uordblks, before.fordblks)


M_TRIM_THRESHOLD = -1
BLOCK = 2000


def test_what_a_trim_cuts_off_the_heap_counts_until_it_is_filled_or_free_cuts_off_more() -> None:
    glibc = Glibc()
    libc = ctypes.PyDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    malloc, free, mallopt = libc["malloc"], libc["free"], libc["mallopt"]
    malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    # not lists: they would grow at the end of the heap, between the blocks
    lower, upper, used = (ctypes.c_void_p * 200_000)(), (ctypes.c_void_p * 10_000)(), 0
    mallopt(M_TRIM_THRESHOLD, 62 * MIB)
    try:
        end = libc.sbrk(0)
        while used < 4000 or libc.sbrk(0) == end:  # fill what holes there are; 8 MiB at least stay below the rest
            lower[used] = malloc(BLOCK)
            used += 1
        for i in range(len(upper)):
            upper[i] = malloc(BLOCK)
        assert glibc.cut() == 0
        for block in upper:
            free(block)
        assert glibc.cut() == 0
        glibc.purge()
        cut = glibc.cut()
        assert 10_000 * 2016 <= cut + MIB <= 10_000 * 2016 + 2 * MIB
        for i in range(5000):
            upper[i] = malloc(BLOCK)
        assert abs(cut - glibc.cut() - 5000 * 2016) <= MIB
        for i in range(5000):
            free(upper[i])
        glibc.purge()
        assert abs(glibc.cut() - cut) <= MIB  # as much as before: nothing was taken back twice
        mallopt(M_TRIM_THRESHOLD, 128 << 10)
        for i in range(used):
            free(lower[i])
        assert glibc.cut() == 0
    finally:
        mallopt(M_TRIM_THRESHOLD, 128 << 10)
