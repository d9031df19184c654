from __future__ import annotations

import ctypes

from pytest_rssguard.allocators.glibc import Glibc, statistics

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
