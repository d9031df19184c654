"""The text is the product: whole texts in tests/core/golden/, rewritten when RSSGUARD_FIX_GOLDEN=1 is set, then read by eye."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.explain import block_size, exception_name, explain, headline, ledger_lines, pinning
from pytest_rssguard.hints import hints
from pytest_rssguard.model import Account, Basis, Census, Heap, Kind, Outcome, Piece, Pools
from pytest_rssguard.result import Released, Result, Round
from tests.builders import KIB, MIB, accounts, census, malloc_stats, region, result, snapshot

GOLDEN: Final = Path(__file__).parent / "golden"
NODEID: Final = "tests/test_a.py::test_b"
NUMPY: Final = tuple(f"numpy.part{number}" for number in range(40))
HEAP: Final = region(0x5555_5555_0000, MIB, path="[heap]")
LIBRARY: Final = "/usr/lib/libbig.so.1"


def heap(**found: Any) -> Heap:  # noqa: ANN401 - fields of Heap
    return Heap(start=0, end=1 << 30, main=True, **found)


RESULTS: Final[dict[str, Result]] = {
    "leaked_malloc": result(
        Outcome.LEAKED,
        50 * MIB,
        malloc_live=50 * MIB,
        allocated=50 * MIB + 4321,
        rss_after=151 * MIB,
        collected=MIB,
        before=snapshot(HEAP, malloc=malloc_stats(hblks=1, hblkhd=MIB)),
        after=snapshot(
            region(0x5555_5555_0000, 11 * MIB, path="[heap]"),
            region(0x7F00_0000_0000, 40 * MIB),
            malloc=malloc_stats(hblks=5, hblkhd=41 * MIB),
        ),
    ),
    "leaked_python": result(
        Outcome.LEAKED,
        12 * MIB,
        python_live=10 * MIB,
        pool_free=MIB,
        allocated=10 * MIB,
        before=snapshot(blocks={32: 100, 64: 5000}),
        after=snapshot(blocks={32: 100_100, 64: 90_000, 512: 3, 16: 7}),
    ),
    "leaked_masked": result(Outcome.LEAKED, 0, masked=True, malloc_live=30 * MIB, trimmable=-30 * MIB, allocated=30 * MIB),
    "leaked_mapped": result(Outcome.LEAKED, 9 * MIB, mapped=9 * MIB, allocated=9 * MIB),
    "leaked_threads": result(
        Outcome.LEAKED,
        24 * MIB,
        stack=24 * MIB,
        allocated=24 * MIB,
        before=snapshot(HEAP, threads=1),
        after=snapshot(HEAP, threads=4),
    ),
    "leaked_shmem": result(Outcome.LEAKED, 8 * MIB, shmem=8 * MIB, allocated=8 * MIB),
    "leaked_by_counters": result(
        Outcome.LEAKED,
        6 * MIB,
        basis=Basis.COUNTERS,
        malloc_live=5 * MIB,
        free_heap=MIB,
        trimmable=None,
        pinned=None,
        arena_top=None,
        tcache=None,
        shmem=None,
        allocated=None,
        census=census(problems=("heap walk: impossible chunk size 3 at 0x7f00", "no glibc heap found")),
    ),
    "retained_trimmable": result(
        Outcome.RETAINED,
        80_000_000,
        trimmable=79_000_000,
        pinned=900_000,
        malloc_live=100_000,
        released=Released(predicted=79_000_000, observed=78_995_456),
        before=snapshot(HEAP),
        after=snapshot(region(0x5555_5555_0000, 81 * MIB, path="[heap]", huge=12 * MIB)),
        census=census(heap(trimmable=79_000_000, top_trimmable=40 * MIB, pinned=900_000, pinned_pages=300, pins={32: 250})),
    ),
    "retained_pinned": result(
        Outcome.RETAINED,
        80 * MIB,
        pinned=78 * MIB,
        malloc_live=2 * MIB,
        before=snapshot(HEAP),
        after=snapshot(HEAP),
        census=census(
            heap(pinned=70 * MIB, pinned_pages=18_000, pins={32: 12_000, 1024: 6_000}),
            heap(pinned=8 * MIB, pinned_pages=2_000, pins={65536: 100, 48: 900, 32: 1}),
        ),
    ),
    "retained_arena_top": result(
        Outcome.RETAINED, 20 * MIB, arena_top=19 * MIB, tcache=MIB, before=snapshot(HEAP), after=snapshot(HEAP)
    ),
    "retained_pools": result(
        Outcome.RETAINED,
        30 * MIB,
        pool_free=29 * MIB,
        python_live=MIB // 2,
        before=snapshot(HEAP),
        after=snapshot(HEAP),
        census=census(pools=Pools(resident=30 * MIB, live=MIB // 2, live_blocks=16_384, arenas=30)),
    ),
    "retained_tcache": result(Outcome.RETAINED, MIB, tolerance=64 * KIB, tcache=MIB),
    "retained_lazy": result(Outcome.RETAINED, 64 * MIB, lazy_free=64 * MIB),
    "retained_over_budget": result(Outcome.RETAINED, 80 * MIB, over_budget=True, budget=64 * MIB, trimmable=80 * MIB),
    "grew_files": result(
        Outcome.GREW,
        14_000_000,
        why="mapped files",
        file=13_000_000,
        modules=(*NUMPY, "_struct", "alpha.x", "beta.x", "gamma.x"),
        before=snapshot(HEAP),
        after=snapshot(HEAP, region(0x7F00_0000_0000, 12 * MIB, path=LIBRARY, perms="r-xp")),
    ),
    "grew_first_written": result(Outcome.GREW, 10 * MIB, why="first written here", malloc_live=10 * MIB),
    "grew_unexplained": result(
        Outcome.GREW, 10 * MIB, why="unexplained", before=snapshot(HEAP), after=snapshot(HEAP), modules=("one", "two")
    ),
    "unmeasurable_private": result(
        Outcome.UNMEASURABLE,
        10 * MIB,
        why="private allocator",
        mapped=10 * MIB,
        private_allocators=("libarrow.so.1800", "libpolars.so"),
    ),
    "unmeasurable_blind": result(Outcome.UNMEASURABLE, 10 * MIB, why="the heap could not be walked", malloc_live=10 * MIB),
    "returned": result(Outcome.RETURNED, 40_960, malloc_live=40_960, modules=NUMPY),
}


def text(found: Result, *, nodeid: str = NODEID, reason: str | None = None) -> str:
    head = f"{exception_name(found.verdict.outcome)}: {headline(found)}"
    return "\n".join((head, "", *explain(found, nodeid=nodeid, reason=reason))) + "\n"


@pytest.mark.parametrize("name", RESULTS)
def test_the_whole_text_is_as_in_the_golden_file(name: str) -> None:
    reason = "the index is kept on purpose, see the design" if name == "retained_pinned" else None
    actual = text(RESULTS[name], reason=reason)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("RSSGUARD_FIX_GOLDEN") == "1":
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8")


def test_every_golden_file_is_looked_at() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == sorted(RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_no_line_is_longer_than_78_columns(name: str) -> None:
    assert [line for line in text(RESULTS[name]).splitlines() if len(line) > 78] == []


@pytest.mark.parametrize("name", RESULTS)
def test_the_printed_accounts_sum_to_the_growth(name: str) -> None:
    found = RESULTS[name]
    assert sum(size or 0 for size in found.accounts.values()) == found.growth
    shown = "\n".join(ledger_lines(found))
    assert [account for account in Account if found.accounts[account] and account.value not in shown] == []


def test_where_the_counters_know_no_heap_every_account_of_it_is_named_as_unknown() -> None:
    unknown = {"free_heap": None, "trimmable": None, "pinned": None, "arena_top": None, "tcache": None}
    found = "\n".join(ledger_lines(result(Outcome.GREW, MIB, basis=Basis.COUNTERS, **unknown)))
    assert "unknown here (in unexplained): trimmable, pinned, free_heap, arena_top," in found
    assert "tcache" in found


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome.LEAKED, "RssLeak"),
        (Outcome.RETAINED, "RssRetained"),
        (Outcome.GREW, "RssNotReturned"),
        (Outcome.UNMEASURABLE, "RssNotReturned"),
        (Outcome.RETURNED, "returned"),
    ],
)
def test_an_outcome_is_called_by_its_exception(outcome: Outcome, expected: str) -> None:
    assert exception_name(outcome) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (RESULTS["leaked_malloc"], "RssLeak: 50.0 MiB leaked (tolerance 4.00 MiB)"),
        (RESULTS["leaked_masked"], "RssLeak: 30.0 MiB leaked, hidden: RSS +0 B (tolerance 4.00 MiB)"),
        (RESULTS["retained_trimmable"], "RssRetained: 76.2 MiB freed, not returned (tolerance 4.00 MiB), no leak"),
        (RESULTS["retained_over_budget"], "RssRetained: 80.0 MiB freed, not returned (budget 64.0 MiB)"),
        (RESULTS["grew_files"], "RssNotReturned: RSS +13.4 MiB, mapped files (tolerance 4.00 MiB)"),
        (RESULTS["returned"], "returned: RSS +40.0 KiB (tolerance 4.00 MiB)"),
    ],
)
def test_the_first_line_stands_alone(found: Result, expected: str) -> None:
    assert text(found).splitlines()[0] == expected


def heads() -> st.SearchStrategy[Result]:
    sizes = st.one_of(st.integers(-(1 << 45), 1 << 45), st.sampled_from((-999 * MIB, 999 * MIB, 1023)))

    def build(outcome: Outcome, growth: int, size: int, tolerance: int, flag: bool) -> Result:
        why = {Outcome.GREW: "first written here", Outcome.UNMEASURABLE: "private allocator"}.get(outcome, "")
        return result(
            outcome,
            growth,
            malloc_live=size,
            trimmable=-size,
            tolerance=tolerance,
            why=why,
            masked=flag,
            over_budget=flag,
            budget=tolerance if flag else None,
        )

    judged = st.sampled_from([outcome for outcome in Outcome if outcome is not Outcome.UNMEASURABLE])
    return st.builds(build, judged, sizes, sizes, st.integers(1, 1 << 45), st.booleans())


@settings(deadline=None)
@given(heads())
def test_the_first_line_has_at_most_72_characters(found: Result) -> None:
    assert len(text(found).splitlines()[0]) <= 72


def test_the_first_line_of_what_cannot_be_measured_has_at_most_72_characters() -> None:
    found = result(Outcome.UNMEASURABLE, 80_000_000, why="private allocator", tolerance=4 * MIB)
    assert len(text(found).splitlines()[0]) <= 72


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(Account), st.one_of(st.none(), st.integers(-(1 << 45), 1 << 45))))
def test_ledger_lines_fit_whatever_the_sizes(known: dict[Account, int | None]) -> None:
    found = result(Outcome.GREW, MIB, **{account.value: size for account, size in known.items()})
    assert [line for line in ledger_lines(found) if len(line) > 78] == []


@pytest.mark.parametrize("nodeid", [NODEID, "t.py::test[a b]", "t.py::test[it's]", "t.py::test[$HOME-`x`]"])
def test_the_re_run_line_is_a_shell_command_for_this_test(nodeid: str) -> None:
    last = text(RESULTS["returned"], nodeid=nodeid).splitlines()[-1]
    assert shlex.split(last)[:3] == ["re-run", "pytest", nodeid]


def test_without_a_node_id_there_is_nothing_to_re_run() -> None:
    assert "re-run" not in text(RESULTS["leaked_malloc"], nodeid="")


def test_a_reason_comes_first() -> None:
    assert text(RESULTS["leaked_malloc"], reason="cold cache").splitlines()[2] == "reason    cold cache"


def test_a_leak_is_never_told_to_call_malloc_trim() -> None:
    leaks = [found for found in RESULTS.values() if found.verdict.outcome is Outcome.LEAKED]
    fixes = [line for found in leaks for line in text(found).partition("\nfix ")[2].splitlines()]
    assert fixes
    assert not any("trim" in line for line in fixes)


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (32, "24 bytes or less"),
        (48, "25 to 40 bytes"),
        (1040, "1017 to 1032 bytes"),
        (2048, "1,025 to 2,048 bytes"),
        (1 << 20, "524,289 to 1,048,576 bytes"),
    ],
)
def test_a_chunk_is_named_by_what_a_program_asks_for(chunk: int, expected: str) -> None:
    assert block_size(chunk) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (census(), "no live block: what is left are pages that carry malloc's own headers"),
        (
            census(heap(pinned=8 * MIB, pinned_pages=2000, pins={32: 1900, 64: 100})),
            "1,900 live blocks of 24 bytes or less hold 8.00 MiB on 2,000 pages",
        ),
        (
            census(heap(pinned=8 * MIB, pinned_pages=9, pins={32: 4, 64: 3, 48: 2, 80: 1})),
            "10 live blocks hold 8.00 MiB on 9 pages: 4 of 24 bytes or less, 3 of 41 to 56 bytes, 2 of 25 to 40 bytes",
        ),
    ],
)
def test_who_pins_is_named_by_size_the_most_first(seen: Census, expected: str) -> None:
    assert pinning(seen) == expected


def test_pins_of_all_heaps_are_counted_together() -> None:
    assert census(heap(pins={32: 1, 48: 2}), heap(pins={32: 5})).pins == {32: 6, 48: 2}


def test_mappings_that_grew_little_are_not_named() -> None:
    grown = result(
        Outcome.GREW, 10 * MIB, before=snapshot(HEAP), after=snapshot(HEAP, region(0x7F00_0000_0000, 64 * KIB, path=LIBRARY))
    )
    assert "where" not in text(grown)


def test_live_objects_that_did_not_grow_in_number_are_not_named() -> None:
    found = result(
        Outcome.LEAKED,
        10 * MIB,
        python_live=10 * MIB,
        before=snapshot(blocks={32: 100}),
        after=snapshot(blocks={32: 100}),
    )
    assert "more live Python blocks" not in text(found)


def test_a_larger_budget_is_what_accepts_retained_memory_that_trim_does_not_return() -> None:
    assert 'retained="64MB" gives freed memory its own budget' in text(RESULTS["retained_arena_top"]).replace(
        "\n          ", " "
    )


# --- hints ------------------------------------------------------------------------------------------------------


def test_what_returned_needs_no_hint() -> None:
    assert list(hints(RESULTS["returned"])) == []


def test_a_result_without_readings_hints_at_imports_alone() -> None:
    assert list(hints(result(Outcome.LEAKED, 10 * MIB, arena_top=9 * MIB, modules=("a", "b")))) == []
    found = list(hints(result(Outcome.LEAKED, 10 * MIB, modules=NUMPY)))
    fact = "the body imported numpy for the first time in this process (40 modules)"
    assert found == [f"{fact}: import it before the body to tell first-use cost from a leak"]


def test_the_first_three_of_many_imported_packages_are_named() -> None:
    modules = ("zeta", "beta.x", "alpha", "gamma", "delta", "_private")
    (found,) = hints(result(Outcome.GREW, 10 * MIB, modules=modules))
    assert found.startswith("the body imported alpha, beta, delta and 2 more for the first time in this process (6 modules)")


def test_imports_of_private_modules_alone_are_named_or_not_hinted_at() -> None:
    modules = ("_a", "_b", "_c", "_d", "_e")
    (found,) = hints(result(Outcome.GREW, 10 * MIB, modules=modules))
    assert found.startswith("the body imported _a, _b, _c and 2 more for the first time in this process (5 modules)")


def seen(outcome: Outcome, growth: int, *, threads: int = 1, huge: int = 0, **changes: Any) -> list[str]:  # noqa: ANN401
    after = snapshot(region(0x5555_5555_0000, 64 * MIB, path="[heap]", huge=huge), threads=threads)
    return list(hints(result(outcome, growth, before=snapshot(HEAP), after=after, **changes)))


def test_without_a_fact_there_is_no_hint() -> None:
    assert seen(Outcome.LEAKED, 10 * MIB, malloc_live=10 * MIB, huge=MIB) == []


def test_threads_that_still_run_are_counted() -> None:
    (found,) = seen(Outcome.LEAKED, 10 * MIB, stack=10 * MIB, threads=4)
    assert found == "3 threads that the body started are still running: their stacks and caches are in use"


def test_one_thread_that_still_runs_is_told_in_the_singular() -> None:
    (found,) = seen(Outcome.LEAKED, 10 * MIB, stack=10 * MIB, threads=2)
    assert found == "1 thread that the body started is still running: its stack and cache are in use"


@pytest.mark.parametrize(("records", "said"), [(1, "keeps a log record of"), (2500, "keeps 2,500 log records of")])
def test_log_records_that_pytest_keeps_are_named(records: int, said: str) -> None:
    (found,) = seen(Outcome.LEAKED, 10 * MIB, malloc_live=10 * MIB, log_records=records)
    assert said in found
    assert seen(Outcome.GREW, 10 * MIB, file=10 * MIB, log_records=records) == []


def test_huge_pages_that_grew_are_named() -> None:
    (found,) = seen(Outcome.LEAKED, 10 * MIB, malloc_live=10 * MIB, huge=6 * MIB)
    assert found == "transparent huge pages grew by +6.00 MiB: one touched byte makes 2 MiB resident"


@pytest.mark.parametrize(("top", "outcome", "expected"), [(2, "retained", 1), (1, "retained", 0), (2, "leaked", 0)])
def test_a_raised_trim_threshold_explains_a_free_end_of_the_heap(top: int, outcome: str, expected: int) -> None:
    found = seen(Outcome(outcome), 10 * MIB, trimmable=10 * MIB, malloc_live=0, census=census(heap(top_trimmable=top * MIB)))
    assert sum("MALLOC_TRIM_THRESHOLD_=131072" in hint for hint in found) == expected


def test_memory_at_the_end_of_thread_heaps_is_explained() -> None:
    (found,) = seen(Outcome.RETAINED, 10 * MIB, arena_top=10 * MIB)
    assert found.startswith("memory freed in threads stays at the end of each thread's own heap")


@pytest.mark.parametrize(("size", "expected"), [(5 * MIB, 1), (-5 * MIB, 1), (4 * MIB, 0)])
def test_much_that_is_unexplained_is_worth_a_report(size: int, expected: int) -> None:
    found = seen(Outcome.GREW, 10 * MIB, file=10 * MIB - size)
    assert len([hint for hint in found if "please report this case" in hint]) == expected


def test_the_accounts_of_a_made_up_result_close() -> None:
    assert sum(size or 0 for size in accounts(5, pinned=3, stack=None).values()) == 5


def test_other_processes_are_named_with_what_each_grew_by() -> None:
    shown = text(replace(RESULTS["leaked_malloc"], processes=(("7 server", 9 * MIB), ("8 worker", MIB))))
    assert "process   7 server: +9.00 MiB\nprocess   8 worker: +1.00 MiB\nRSS " in shown
    assert "the body" not in shown.partition("\nhint")[0].partition("\nfix")[0]


def test_rounds_are_told_between_the_ledger_and_the_proof() -> None:
    rounds = tuple(Round(growth=9 * MIB, held=9 * MIB, retained=0, allocated=9 * MIB) for _ in range(3))
    assert "\nrounds    " in text(replace(RESULTS["leaked_malloc"], rounds=rounds))


def test_a_census_that_is_kept_for_sums_keeps_no_tables() -> None:
    full = census(heap(pinned=MIB, pins={32: 9}, cells="LP"), pieces=(Piece(kind=Kind.ARENA, start=0, end=1, resident=1),))
    slim = full.slim()
    assert (slim.pieces, slim.heaps[0].pins, slim.heaps[0].cells) == ((), {}, "")
    assert slim.heaps[0].pinned == MIB
