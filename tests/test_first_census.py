"""Under --rssguard-judge-all nothing of ours may trim between a test and the first census of the run."""

from __future__ import annotations

import pytest

from tests.conftest import Records


@pytest.mark.parametrize("before", ["", "def test_before(): pass\n"])
def test_what_the_first_large_test_frees_at_the_end_of_the_heap_reads_as_retained(records: Records, before: str) -> None:
    found = records(
        before + "libc.mallopt(-3, 1 << 17)\n"
        "libc.mallopt(-1, 62 * MB)  # what freeing one block of 31 MiB does: free() keeps up to 62 MiB at the end\n"
        "def test_frees():\n"
        "    for pointer in [block(1000) for _ in range(16_000)]:\n"
        "        libc.free(pointer)\n",
        "--rssguard-judge-all",
    )["test_frees"]
    assert found["outcome"] == "retained", found
    accounts = found["accounts"]
    # 16,128,000 B of chunks, less what went where the start of the process had left some 600 KB free: no trim before
    assert 15_400_000 <= accounts["free_heap"] <= 16_200_000, found
    # the mappings of the baseline are those of the last full reading: up to a quarter of the tolerance away
    assert abs(accounts["unexplained"] or 0) <= 1 << 20, found
