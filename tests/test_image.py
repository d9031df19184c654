from __future__ import annotations

import ctypes
import mmap

from pytest_rssguard import heaps
from pytest_rssguard.image import Image

SIZE = 3 << 20


def test_all_writable_data_of_a_run_is_searched_in_one_piece() -> None:
    # main_arena may stand anywhere in it, and over the end of what a walk reads at once
    data = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, SIZE, mmap.PAGESIZE):
        data[at] = 1
    holder = ctypes.c_char.from_buffer(data)
    start = ctypes.addressof(holder)
    with Image("self") as image:
        assert image.window(start, start + SIZE) is not None  # what is read already must not stand for all of it
        found = [(len(words) * 8, base) for words, base in heaps._words(image, start, start + SIZE)]
    assert found == [(SIZE, start)]
    del holder
    data.close()
