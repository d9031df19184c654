"""A made-up test run that looks like a real one: most tests return their memory, some do not, each in its own way."""

from __future__ import annotations

import random
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from pytest_rssguard.model import Account, Basis, Outcome
from pytest_rssguard.record import Block, HeapMap, Record
from tests.builders import KIB, MIB, accounts, record

ENVIRONMENT: Final = {
    "key": "linux-x86_64-cp311-glibc2.36-pymalloc", "python": "3.11.7", "libc": "glibc 2.36", "kernel": "6.18",
    "page_size": 4096, "thp": "madvise", "allocators": ["pymalloc", "glibc"],
    "capabilities": {"smaps": True, "census": True, "malloc_stats": True},
}  # fmt: skip
GOLDEN: Final = Path(__file__).parent / "core" / "golden"
_FAILING: Final = (
    "leaked_malloc",
    "retained_pinned",
    "leaked_masked",
    "grew_files",
    "retained_trimmable",
    "unmeasurable_private",
)


def made_up_run(tests: int, *, failing: int = 12, workers: int = 0, seed: int = 1) -> list[Record]:
    """Return the records of `tests` tests, of which `failing` did not return their memory, run by `workers` of xdist."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    bad = set(rng.sample(range(tests), failing))
    level = [rng.randrange(30, 50) * MIB for _ in range(max(workers, 1))]
    found = []
    for at in range(tests):
        lane = rng.randrange(len(level))
        nodeid = f"tests/unit/test_module_{at // 12:03}.py::TestClass{at % 12 // 4}::test_behaviour_{at}[case-{at % 7}]"
        made = _failing(rng, nodeid, at, level[lane]) if at in bad else _returned(rng, nodeid, at, level[lane])
        level[lane] = made.rss_settled or level[lane]
        found.append(_with_worker(made, f"gw{lane}" if workers else None))
    return found


def _with_worker(made: Record, worker: str | None) -> Record:
    return Record(**{name: getattr(made, name) for name in Record.__dataclass_fields__ if name != "worker"}, worker=worker)


def _returned(rng: random.Random, nodeid: str, at: int, before: int) -> Record:
    growth = rng.choice((0, 0, 4, 16, 64, 512, -128)) * KIB
    return _record(nodeid, at, before, growth, python_live=growth // 2, seconds=rng.random() / 100, basis=Basis.COUNTERS)


def _failing(rng: random.Random, nodeid: str, at: int, before: int) -> Record:
    kind = _FAILING[at % len(_FAILING)]
    size = rng.randrange(6, 60) * MIB
    outcome = Outcome(kind.partition("_")[0])
    masked = kind.endswith("masked")
    parts = {
        "leaked_malloc": {"malloc_live": size, "pool_free": MIB, "pinned": 14 * KIB, "tcache": -5 * KIB},
        "retained_pinned": {"pinned": size - MIB, "trimmable": MIB, "malloc_live": 512 * KIB},
        "leaked_masked": {"malloc_live": size, "trimmable": -size},
        "grew_files": {"file": size, "python_live": MIB},
        "retained_trimmable": {"trimmable": size, "pool_free": 2 * MIB, "stack": 64 * KIB},
        "unmeasurable_private": {"mapped": size},
    }[kind]
    text = (GOLDEN / f"{kind}.txt").read_text(encoding="utf-8")
    released = parts.get("trimmable", 0)
    return _record(
        nodeid, at, before, sum(parts.values()), **parts,
        outcome=outcome, masked=masked, seconds=rng.random() / 10, basis=Basis.CENSUS, free_heap=None,
        collected=rng.choice((0, 3 * MIB)), allocated=size, text=text, message=text.partition("\n")[0],
        released=(released, released - 8 * KIB) if released > 0 else None,
        pins=((32, 15_943), (1040, 120), (65_536, 3)) if "pinned" in parts else (),
        mappings=(("[heap]", 12 * MIB, 12 * MIB + size), ("", 20 * MIB, 21 * MIB), ("libbig.so.1", 0, 0)),
        heap_map=(heap_map(rng, "main heap", 1800), heap_map(rng, "thread arena", 200)) if outcome is Outcome.RETAINED else (),
        rounds=tuple({"growth": size - at * 4096, "held": size, "retained": 0} for at in range(3)) if masked else (),
        blocks=(_block("parse", size),) if kind == "leaked_malloc" else (),
        reason="a request may not make the server grow" if masked else None,
    )  # fmt: skip


def heap_map(rng: random.Random, name: str, cells: int) -> HeapMap:
    """Return a heap of `cells` pages with long runs and mixed stretches, and an arena's top at its end."""
    letters = "".join(rng.choice("LLPPPT.") * rng.choice((1, 1, 2, 9, 40)) for _ in range(cells))[: cells - 40] + "A" * 40
    runs = "".join(f"{letter}{len(list(run))}" for letter, run in groupby(letters))
    return HeapMap(name=name, start=0x5555_5555_0000, page_size=4096, pages_per_cell=1, cells=runs)


def _block(label: str, size: int) -> Block:
    return Block(
        label=label, outcome=Outcome.LEAKED, growth=size, held=size, retained=0, accounts=accounts(size, malloc_live=size)
    )


def _record(nodeid: str, at: int, before: int, growth: int, **changes: Any) -> Record:  # noqa: ANN401 - fields of Record
    known = {name: changes.pop(name) for name in list(changes) if name in {account.value for account in Account}}
    held = sum(known.get(name) or 0 for name in ("python_live", "malloc_live", "mapped", "stack", "shmem"))
    freed = ("trimmable", "pinned", "free_heap", "arena_top", "pool_free", "tcache", "lazy_free")
    collected = changes.get("collected", 0)
    return record(
        nodeid, accounts=accounts(growth, **known), held=held, retained=sum(known.get(name) or 0 for name in freed),
        rss_untrimmed=before, rss_before=before, rss_after=before + growth + collected, rss_settled=before + growth,
        growth=growth, file=nodeid.partition("::")[0], line=10 + at, **changes,
    )  # fmt: skip
