"""The JSON report, schema 1: every key, sums that hold, and a file that is whole or not there."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from typing import Any, Final

import pytest

Inner = Callable[..., pytest.RunResult]
Records = Callable[..., dict[str, Any]]

HELD: Final = {"python_live", "malloc_live", "mapped", "stack", "shmem"}
RETAINED: Final = {"trimmable", "pinned", "free_heap", "arena_top", "pool_free", "tcache", "lazy_free"}
CENSUS_ONLY: Final = {"trimmable", "pinned", "arena_top", "tcache"}
RECORD: Final = {
    "nodeid": str, "outcome": str, "masked": bool, "judged": bool, "tolerance": int, "basis": str,
    "rss_untrimmed": int, "rss_before": int, "rss_after": int, "rss_settled": int, "growth": int, "allocated": int,
    "held": int, "retained": int, "collected": int, "accounts": dict, "rounds": list, "message": str, "hints": list,
    "worker": type(None), "seconds": float,
}  # fmt: skip
SOURCE: Final = """
    import gc
    import threading
    from mmap import mmap

    kept = []

    @pytest.mark.rss_returns
    def test_nothing():
        pass

    @pytest.mark.rss_returns
    def test_leak():
        leak(10)

    @pytest.mark.rss_returns
    def test_small_leak():
        fill(8)

    @pytest.mark.rss_returns
    def test_kept_by_malloc():
        retain(10)

    @pytest.mark.rss_returns
    def test_pinned():
        pin(12)

    @pytest.mark.rss_returns
    def test_objects():
        kept.append([object() for _ in range(500_000)])

    @pytest.mark.rss_returns
    def test_mapped():
        kept.append(mmap(-1, 10 * MB, flags=0x22))
        kept[-1].write(b"x" * 10 * MB)

    @pytest.mark.rss_returns
    def test_shared():
        kept.append(mmap(-1, 10 * MB))
        for at in range(0, 10 * MB, 4096):
            kept[-1][at] = 1

    @pytest.mark.rss_returns
    def test_thread():
        started, stop = threading.Event(), threading.Event()
        def body():
            block(6 * MB)
            started.set()
            stop.wait()
        kept.append((threading.Thread(target=body, daemon=True), stop))
        kept[-1][0].start()
        started.wait()

    @pytest.mark.rss_returns
    def test_garbage():
        cycle = [mmap(-1, 10 * MB)]
        cycle.append(cycle)
        for at in range(0, 10 * MB, 4096):
            cycle[0][at] = 1

    @pytest.mark.rss_returns
    def test_within_tolerance():
        leak(2)

    @pytest.mark.rss_returns(trim=True)
    def test_trimmed():
        retain(10)

    def test_unmarked():
        leak(10)

    def test_stops_threads():
        for each in kept:
            if isinstance(each, tuple):
                each[1].set()
                each[0].join()
"""


def test_the_environment_names_what_decides_memory(records: Records) -> None:
    environment = records("@pytest.mark.rss_returns\ndef test_nothing(): pass")[""]["environment"]
    keys = {"key", "python", "libc", "kernel", "page_size", "thp", "allocators", "capabilities"}
    assert environment.keys() >= keys
    assert environment["python"] == platform.python_version()
    assert environment["page_size"] == os.sysconf("SC_PAGE_SIZE")
    assert environment["allocators"] == ["pymalloc", "glibc"]
    assert environment["capabilities"] == {"smaps": True, "census": True, "malloc_stats": True}
    key = environment["key"]
    assert key.startswith(f"linux-{platform.machine()}-cp3")
    assert key.endswith("-pymalloc")
    assert platform.node() not in key


def test_the_file_is_replaced_not_rewritten(inner: Inner, pytester: pytest.Pytester) -> None:
    path, before = pytester.path / "report.json", pytester.path / "before.json"
    path.write_text("what stood there", encoding="utf-8")
    os.link(path, before)
    inner("@pytest.mark.rss_returns\ndef test_nothing(): pass", f"--rssguard-json={path}").assert_outcomes(passed=1)
    assert before.read_text(encoding="utf-8") == "what stood there"
    assert len(json.loads(path.read_text(encoding="utf-8"))["tests"]) == 1
    assert path.stat().st_mode & 0o777 == 0o644
    assert sorted(each.name for each in pytester.path.glob(".rssguard*")) == []


@pytest.mark.parametrize("stop", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_an_interrupted_run_still_writes_what_it_knows(inner: Inner, pytester: pytest.Pytester, stop: str) -> None:
    inner(
        f"""
        @pytest.mark.rss_returns
        def test_leak():
            leak(10)

        @pytest.mark.rss_returns
        def test_stop():
            {stop}
        """,
        "--rssguard-json=report.json",
    )
    report = json.loads((pytester.path / "report.json").read_text(encoding="utf-8"))
    assert report["tests"][0]["outcome"] == "leaked"


def test_a_killed_run_leaves_the_old_file_alone(inner: Inner, pytester: pytest.Pytester) -> None:
    path = pytester.path / "report.json"
    path.write_text("what stood there", encoding="utf-8")
    inner("import os\n@pytest.mark.rss_returns\ndef test_die(): os._exit(3)", f"--rssguard-json={path}")
    assert path.read_text(encoding="utf-8") == "what stood there"
    assert list(pytester.path.glob(".rssguard*")) == []


def test_without_measured_tests_the_report_is_empty_and_whole(records: Records) -> None:
    assert records("def test_plain(): pass")[""]["tests"] == []


def test_names_that_are_no_ascii(records: Records) -> None:
    tests = records("""
        @pytest.mark.rss_returns(reason='größer "als" \\\\ <b>')
        @pytest.mark.parametrize("text", ["naïve", "日本", "<script>", '"'])
        def test_name(text):
            pass
    """)
    assert [record["reason"] for record in tests[""]["tests"]] == ['größer "als" \\ <b>'] * 4


def test_a_rerun_replaces_its_record(records: Records, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            for _ in range(3):
                runtestprotocol(item, nextitem=nextitem)
            return True
    """)
    tests = records("""
        sizes = [10, 10, 1]

        @pytest.mark.rss_returns
        def test_flaky():
            leak(sizes.pop(0))
    """)
    assert [record["outcome"] for record in tests[""]["tests"]] == ["returned"]
