"""Machines that tell less: coarser accounts or "unmeasurable", never a traceback, never a pass by accident.

Everything runs in a process of its own. A made-up /proc is a folder of links to the real one, in which single files are
missing, refuse to be read (a link to /proc/self/mem reads as EIO) or hold nonsense.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

Records = Callable[..., dict[str, Any]]
Inner = Callable[..., pytest.RunResult]

MALLOC_ONLY: Final = {"python_live", "malloc_live"}
FILES: Final = ("maps", "mem", "pagemap", "smaps", "smaps_rollup", "stat", "statm", "status", "task")
#: Measures three bodies with the /proc given; before the last reading a file may be broken.
SCRIPT: Final = """
import json, os, sys
from pathlib import Path
from native import *
from pytest_rssguard.api import message
from pytest_rssguard.guard import Guard
from pytest_rssguard.model import Limit
from pytest_rssguard.probe import LinuxProbe

proc, broken, how = sys.argv[1:]

def breaks():
    if not broken:
        return
    path = Path(proc, "self", broken)
    text = path.read_bytes() if how.startswith("cut") else b""
    half = text.find(b"\\nPss:", len(text) // 2) + 1
    path.unlink()
    if how == "EIO":
        path.symlink_to("/proc/self/mem")
    elif how != "missing":
        path.write_bytes({
            "garbage": b"\\xff\\x00 utter\\nnonsense: 3\\n", "empty": b"",
            "cut": text[: half + 2], "cut between lines": text[:half],
        }[how])

guard = Guard(LinuxProbe(proc=proc))
found = {}
for name, body in (("nothing", lambda: None), ("leak", lambda: leak(10)), ("kept", lambda: retain(10)), ("broken", breaks),
                   ("later", lambda: leak(10))):
    span = guard.begin(Limit(tolerance=4 << 20))
    body()
    if name == "broken":
        leak(10)
    result = guard.end(span)
    assert sum(size or 0 for size in result.accounts.values()) == result.growth
    text = message(result, nodeid=name)
    # a path is never broken: a line may be longer where it holds one word and no other
    assert all(len(line) <= 78 or len(line.split()) == 1 for line in text.splitlines()), text
    found[name] = {
        "outcome": result.verdict.outcome, "basis": result.basis, "why": result.verdict.why, "text": text,
        "growth": result.growth,
        "accounts": {str(account): size for account, size in result.accounts.items()},
    }
print(json.dumps(found))
"""


WHOLE: Final = {"nothing": "returned", "leak": "leaked", "kept": "retained", "broken": "leaked", "later": "leaked"}
#: The same with the cheap look at every test.
WATCHED: Final = (
    SCRIPT.partition("guard = Guard")[0]
    + """
from pytest_rssguard.result import Result
from pytest_rssguard.watch import Watch

limit = Limit(tolerance=4 << 20)
watch = Watch(Guard(LinuxProbe(proc=proc)))
begun = watch.begin(limit)
leak(10)
breaks()
found = watch.end(begun, limit, trim=False)
assert isinstance(found, Result)
again = watch.begin(limit)
leak(10)
print(json.dumps({
    "outcome": found.verdict.outcome, "why": found.verdict.why, "growth": found.growth,
    "later": again and watch.end(again, limit, trim=False).verdict.outcome,
}))
"""
)


def _tree(folder: Path) -> Path:
    """Make a /proc of links to the real one, as each process that looks sees it."""
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    for name in FILES:
        (proc / "self" / name).symlink_to(f"/proc/self/{name}")
    return proc


def _measure(folder: Path, proc: Path, *, broken: str = "", how: str = "") -> dict[str, Any]:
    return _run(SCRIPT, folder, proc, broken=broken, how=how)


def _run(script: str, folder: Path, proc: Path, *, broken: str = "", how: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(proc), broken, how],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _outcomes(found: dict[str, Any]) -> dict[str, str]:
    return {name: each["outcome"] for name, each in found.items()}


@pytest.fixture
def proc(pytester: pytest.Pytester, native: None) -> Path:
    """A made-up /proc."""
    del native
    return _tree(pytester.path)


def test_a_whole_tree_measures_like_proc_itself(proc: Path) -> None:
    found = _measure(proc.parent, proc)
    assert _outcomes(found) == WHOLE


@pytest.mark.parametrize("name", ["smaps", "statm"])
@pytest.mark.parametrize("how", ["missing", "EIO", "empty"])
def test_without_what_rss_comes_from_nothing_is_judged(proc: Path, name: str, how: str) -> None:
    (proc / "self" / name).unlink()
    if how == "EIO":
        (proc / "self" / name).symlink_to("/proc/self/mem")
    elif how == "empty":
        (proc / "self" / name).touch()
    found = _measure(proc.parent, proc)
    assert set(_outcomes(found).values()) == {"unmeasurable"}
    assert f"self/{name} cannot be read" in found["leak"]["why"]
    assert "This is no pass" in found["leak"]["text"].replace("\n          ", " ")


@pytest.mark.parametrize("name", ["smaps", "statm", "stat"])
def test_nonsense_from_the_start_is_not_judged(proc: Path, name: str) -> None:
    (proc / "self" / name).unlink()
    (proc / "self" / name).write_bytes(b"\xff\x00 utter\nnonsense: 3\n")
    found = _measure(proc.parent, proc)
    assert set(_outcomes(found).values()) == {"unmeasurable"}


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00 utter\nnonsense: 3\n"], ids=["missing", "empty", "nonsense"])
def test_without_smaps_rollup_verdicts_are_the_same(proc: Path, content: bytes | None) -> None:
    (proc / "self" / "smaps_rollup").unlink()
    if content is not None:
        (proc / "self" / "smaps_rollup").write_bytes(content)
    found = _measure(proc.parent, proc)
    assert _outcomes(found) == WHOLE


@pytest.mark.parametrize("name", ["pagemap", "mem", "maps"])
def test_without_a_census_a_leak_is_never_passed(proc: Path, name: str) -> None:
    (proc / "self" / name).unlink()
    found = _measure(proc.parent, proc)
    assert found["nothing"]["outcome"] == "returned"
    assert found["leak"]["outcome"] in {"leaked", "unmeasurable"}
    assert found["kept"]["outcome"] in {"retained", "unmeasurable"}
    if found["kept"]["basis"] == "counters":
        accounts = found["kept"]["accounts"]
        assert accounts["trimmable"] is None
        assert accounts["pinned"] is None
        assert accounts["free_heap"] > 8 << 20


#: Half of statm or stat may still be a whole one: only smaps, which names every mapping, is known to be cut.
BREAKS: Final = [
    *((name, how) for name in ("smaps", "statm", "stat") for how in ("missing", "EIO", "garbage", "empty")),
    ("smaps", "cut"),
    ("smaps", "cut between lines"),
]


@pytest.mark.parametrize(("name", "how"), BREAKS)
def test_a_file_that_breaks_in_the_middle_is_not_judged(proc: Path, name: str, how: str) -> None:
    found = _measure(proc.parent, proc, broken=name, how=how)
    assert 9 << 20 < found["broken"]["growth"] < 14 << 20
    assert 9 << 20 < found["later"]["growth"] < 14 << 20
    outcomes = _outcomes(found)
    assert outcomes.pop("broken") == outcomes.pop("later") == "unmeasurable"
    assert outcomes == {"nothing": "returned", "leak": "leaked", "kept": "retained"}


@pytest.mark.parametrize("name", ["smaps", "statm", "stat"])
@pytest.mark.parametrize("how", ["missing", "garbage"])
def test_a_cheap_look_that_breaks_is_not_judged_either(proc: Path, name: str, how: str) -> None:
    found = _run(WATCHED, proc.parent, proc, broken=name, how=how)
    assert found["outcome"] == "unmeasurable"
    assert found["why"].startswith("/proc stopped answering: ")
    assert 9 << 20 < found["growth"] < 14 << 20
    assert found["later"] in {None, "unmeasurable"}  # None: it has not even begun


def test_a_cheap_look_at_a_whole_tree_sees_the_leak(proc: Path) -> None:
    found = _run(WATCHED, proc.parent, proc)
    assert found["outcome"] == found["later"] == "leaked"


def test_python_objects_in_malloc(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONMALLOC", "malloc")
    tests = records("""
        kept = []
        pytestmark = pytest.mark.rss_returns

        def test_nothing():
            pass

        def test_leak():
            leak(10)

        def test_objects():
            kept.append([object() for _ in range(400_000)])

        def test_freed_objects():
            [object() for _ in range(400_000)]
            kept.append(object())
    """)
    report = tests.pop("")
    assert report["environment"]["allocators"] == ["glibc"]
    assert report["environment"]["key"].endswith("-malloc")
    outcomes = {name: record["outcome"] for name, record in tests.items()}
    assert outcomes.pop("test_freed_objects") in {"returned", "retained"}
    assert outcomes == {"test_nothing": "returned", "test_leak": "leaked", "test_objects": "leaked"}
    assert tests["test_objects"]["accounts"]["malloc_live"] > 8 << 20
    assert all(record["accounts"][name] == 0 for record in tests.values() for name in ("python_live", "pool_free"))


@pytest.mark.parametrize("debug", ["malloc_debug", "pymalloc_debug"])
def test_debug_allocators_are_sane(records: Records, monkeypatch: pytest.MonkeyPatch, debug: str) -> None:
    monkeypatch.setenv("PYTHONMALLOC", debug)
    tests = records("""
        pytestmark = pytest.mark.rss_returns

        def test_nothing():
            pass

        def test_leak():
            leak(10)
    """)
    assert tests["test_leak"]["outcome"] in {"leaked", "unmeasurable"}
    assert tests["test_nothing"]["outcome"] in {"returned", "unmeasurable"}


@pytest.mark.parametrize("when", ["at start", "before", "inside"])
def test_with_tracemalloc(records: Records, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    if when == "at start":
        monkeypatch.setenv("PYTHONTRACEMALLOC", "1")
    tests = records(f"""
        import tracemalloc

        pytestmark = pytest.mark.rss_returns
        kept = []

        @pytest.fixture(autouse=True)
        def traced(request):
            if {when!r} == "before":
                tracemalloc.start()
            yield
            if {when!r} != "at start":
                tracemalloc.stop()

        def test_leak():
            if {when!r} == "inside":
                tracemalloc.start()
            leak(10)

        def test_objects():
            if {when!r} == "inside":
                tracemalloc.start()
            kept.append([object() for _ in range(400_000)])

        def test_nothing():
            if {when!r} == "inside":
                tracemalloc.start()
    """)
    assert tests["test_leak"]["outcome"] in {"leaked", "unmeasurable"}
    assert tests["test_objects"]["outcome"] in {"leaked", "unmeasurable"}
    assert tests["test_nothing"]["outcome"] in {"returned", "unmeasurable"}
    for name in ("test_leak", "test_objects", "test_nothing"):
        assert sum(size or 0 for size in tests[name]["accounts"].values()) == tests[name]["growth"]


@pytest.mark.parametrize(
    ("library", "name"),
    [("libjemalloc.so.2", "jemalloc"), ("libmimalloc.so.2", "mimalloc"), ("libtcmalloc_minimal.so.4", "tcmalloc")],
)
def test_another_allocator_is_named_and_nothing_is_passed(
    records: Records, monkeypatch: pytest.MonkeyPatch, library: str, name: str
) -> None:
    path = _library(library)
    monkeypatch.setenv("LD_PRELOAD", path)
    tests = records("""
        from mmap import mmap

        pytestmark = pytest.mark.rss_returns
        kept = []

        def test_leak():
            leak(10)

        def test_small_leaks():
            fill(10)

        def test_objects():
            kept.append([object() for _ in range(400_000)])

        def test_nothing():
            pass
    """)
    report = tests.pop("")
    assert report["environment"]["capabilities"]["malloc_stats"] is False
    assert report["environment"]["key"].endswith("-foreign")
    outcomes = {test: record["outcome"] for test, record in tests.items()}
    assert outcomes.pop("test_nothing") in {"returned", "unmeasurable"}
    assert outcomes.pop("test_objects") in {"leaked", "unmeasurable"}
    assert outcomes == {"test_leak": "unmeasurable", "test_small_leaks": "unmeasurable"}
    for record in tests.values():
        assert sum(size or 0 for size in record["accounts"].values()) == record["growth"]
        assert record["accounts"]["mapped"] is None
    assert tests["test_leak"]["accounts"]["unexplained"] > 8 << 20
    assert name in _warning()


@pytest.mark.parametrize(
    ("library", "name", "option"),
    [
        ("libjemalloc.so.2", "jemalloc", "--rssguard-all"),
        ("libmimalloc.so.2", "mimalloc", "--rssguard-judge-all"),
        ("libtcmalloc_minimal.so.4", "tcmalloc", "--rssguard-judge-all"),
    ],
)
def test_under_another_allocator_unmarked_tests_are_not_passed_either(
    records: Records, monkeypatch: pytest.MonkeyPatch, library: str, name: str, option: str
) -> None:
    monkeypatch.setenv("LD_PRELOAD", _library(library))
    tests = records(
        """
        def test_leak():
            leak(10)

        def test_freed():
            retain(10)

        def test_nothing():
            pass
        """,
        option,
        "--rssguard-report",
    )
    del tests[""]
    outcomes = {test: record["outcome"] for test, record in tests.items()}
    assert outcomes.pop("test_nothing") in {"returned", "unmeasurable"}
    assert outcomes == {"test_leak": "unmeasurable", "test_freed": "unmeasurable"}
    assert {record["judged"] for record in tests.values()} == {option == "--rssguard-judge-all"}
    if option == "--rssguard-judge-all":
        assert name in tests["test_leak"]["text"]


def _library(name: str) -> str:
    """Return the path of a shared library, or skip."""
    found = [path for path in Path("/usr").glob(f"lib*/**/{name}") if path.exists()]
    if not found:
        pytest.skip(f"{name} is not on this machine")
    return str(found[0])


def _warning() -> str:
    """Return what plain Python says of a leak."""
    done = subprocess.run(
        [sys.executable, "-c", "from pytest_rssguard import returns\nfrom native import *\nwith returns():\n    leak(10)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "RssGuardWarning" in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


LIBRARY: Final = """
#include <string.h>
#include <sys/mman.h>

const char *message(void) { return "<jemalloc>: out of memory"; }

void *grab(size_t size) {
    void *block = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(block, 1, size);
    return block;
}
"""


def test_a_library_with_a_private_allocator_is_named(records: Records, pytester: pytest.Pytester) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    pytester.path.joinpath("private.c").write_text(LIBRARY, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "libprivate.so", "private.c"], cwd=pytester.path, check=True)
    tests = records("""
        import ctypes

        pytestmark = pytest.mark.rss_returns

        def mapped(size):
            libc = ctypes.CDLL(None)
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
            ctypes.memset(libc.mmap(None, size, 3, 0x22, -1, 0), 1, size)

        def test_mapped_before():
            mapped(10 * MB)

        @pytest.fixture
        def library():
            library = ctypes.CDLL("./libprivate.so")
            library.grab.restype = ctypes.c_void_p
            library.grab.argtypes = [ctypes.c_size_t]
            return library

        def test_grab(library):
            library.grab(10 * MB)

        def test_malloc(library):
            leak(10)

        def test_nothing(library):
            pass
    """)
    assert {name: record["outcome"] for name, record in tests.items() if name} == {
        "test_mapped_before": "leaked", "test_grab": "unmeasurable", "test_malloc": "leaked", "test_nothing": "returned",
    }  # fmt: skip
    result = pytester.runpytest_subprocess("-k", "test_grab")
    result.assert_outcomes(passed=1, deselected=3, warnings=1)
    result.stdout.fnmatch_lines(["*CANNOT TELL: 10.0 MiB more are mapped, and libprivate.so*jemalloc*"])
