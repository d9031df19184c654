"""The canary: it must see every planted pattern here, and it must fail where the guard is broken."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_rssguard import diagnosis
from pytest_rssguard.canary import Answer, Finding, assess, bounds, parse_finding
from pytest_rssguard.capabilities import Capability, can_divide
from pytest_rssguard.cli import main
from pytest_rssguard.model import Account, Outcome
from pytest_rssguard.planting import PLANTS, Plant

BY_NAME = {plant.name: plant for plant in PLANTS}
JEMALLOC = find_library("jemalloc")
LEAK = BY_NAME["leak"]
Doctor = Callable[..., tuple[int, str]]


def good(plant: Plant, **changes: object) -> Finding:
    """Return the finding of a guard that is right about `plant`."""
    accounts: dict[str, int | None] = dict.fromkeys(Account, 0)
    if plant.account:
        accounts[plant.account] = plant.planted
    found = Finding(
        outcome=plant.outcome.value,
        masked=plant.masked,
        growth=plant.planted,
        accounts=accounts,
        planted=plant.planted,
        allocated=plant.planted if plant.outcome is Outcome.LEAKED else plant.kept,
    )
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command with only the plants named, every fresh process of it with `broken` run at its start."""

    def run(broken: str, *plants: str, gate: bool = False) -> tuple[int, str]:
        if broken:
            tmp_path.joinpath("sitecustomize.py").write_text(dedent(broken), encoding="utf-8")
            monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(diagnosis, "PLANTS", [BY_NAME[name] for name in plants])
        if not gate:
            monkeypatch.setattr(diagnosis, "_try_gate", lambda: diagnosis.Gate(answer=Answer.RIGHT))
        code = main(["doctor"])
        return code, capsys.readouterr().out

    return run


def test_every_planted_pattern_is_told_apart_on_this_machine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_rssguard", "doctor", "--json"], capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert found["healthy"] is True
    assert {each["name"] for each in found["planted"]} == set(BY_NAME)
    for each in found["planted"]:
        assert each["answer"] in {"right", "coarse", "not here"}, each
        if each["answer"] == "right":
            assert each["least"] <= each["size"] <= each["most"], each
            assert sum(size or 0 for size in each["found"]["accounts"].values()) == each["found"]["growth"]
    assert found["test_run"]["answer"] == "right"


def test_the_report_fits_80_columns(doctor: Doctor) -> None:
    code, text = doctor("", "leak", "masked leak of objects")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert "The guard works here: each of 2 planted patterns was told apart." in text


JUDGE = """
    import pytest_rssguard.conclusion as conclusion
    from pytest_rssguard.model import Outcome, Verdict
    conclusion.judge = lambda evidence, limit, **more: Verdict(outcome=Outcome.{outcome})
"""


@pytest.mark.parametrize("plant", ["leak", "leak of objects", "leak of a mapping", "masked leak", "trimmable", "pinned"])
def test_a_verdict_that_always_returns_is_caught(doctor: Doctor, plant: str) -> None:
    code, text = doctor(JUDGE.format(outcome="RETURNED"), plant)
    assert code == 1
    assert "the verdict is 'returned'" in text
    assert "THE GUARD CANNOT BE TRUSTED HERE" in text


@pytest.mark.parametrize("plant", ["nothing", "trimmable"])
def test_a_verdict_that_always_accuses_is_caught(doctor: Doctor, plant: str) -> None:
    code, text = doctor(JUDGE.format(outcome="LEAKED"), plant)
    assert code == 1
    assert "the verdict is 'leaked'" in text


LIES = {
    "RSS stands still": """
        from pytest_rssguard.probe import LinuxProbe
        LinuxProbe.judged_rss = lambda self, slot: 50 << 20
    """,
    "mallinfo2 stands still": """
        import pytest_rssguard.allocators.glibc as glibc
        honest, kept = glibc.parse_mallinfo, []
        glibc.parse_mallinfo = lambda words: (kept.append(honest(words)) or kept[0]) if not kept else kept[0]
    """,
    "mallinfo2 counts double": """
        import dataclasses
        import pytest_rssguard.allocators.glibc as glibc
        honest = glibc.parse_mallinfo
        def parse_mallinfo(words):
            found = honest(words)
            return dataclasses.replace(found, uordblks=2 * found.uordblks)
        glibc.parse_mallinfo = parse_mallinfo
    """,
    "the census closes never": """
        import dataclasses
        import pytest_rssguard.census as census
        honest = census.take
        census.take = lambda *a, **k: dataclasses.replace(honest(*a, **k), problems=("it does not close",))
    """,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_probe_that_lies_is_caught(doctor: Doctor, lie: str) -> None:
    code, text = doctor(LIES[lie], "leak")
    assert code == 1, text
    assert "WRONG" in text


def test_retained_memory_on_the_wrong_account_is_caught(doctor: Doctor) -> None:
    swapped = """
        import dataclasses
        import pytest_rssguard.census as census
        honest = census.take
        def take(*arguments, **more):
            found = honest(*arguments, **more)
            heaps = (dataclasses.replace(heap, trimmable=heap.pinned, pinned=heap.trimmable) for heap in found.heaps)
            return dataclasses.replace(found, heaps=tuple(heaps))
        census.take = take
    """
    code, text = doctor(swapped, "pinned")
    assert code == 1
    assert " on pinned, not 8." in text


def test_a_process_that_dies_is_no_pass(doctor: Doctor) -> None:
    code, text = doctor("import pytest_rssguard.conclusion as c; c.conclude = None", "leak")
    assert code == 1
    assert "its process ended with 1: TypeError" in text


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PYTEST_ADDOPTS", "--rssguard-off", "exit code 0"),
        ("PYTEST_ADDOPTS", "-p no:rssguard", "pytest wrote no report"),
        ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1", "pytest wrote no report"),
    ],
)
def test_a_plugin_that_is_switched_off_is_caught(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    code, text = doctor("", gate=True)
    assert code == 1
    assert said in text


@pytest.mark.skipif(JEMALLOC is None, reason="no jemalloc on this machine to preload")
def test_under_a_preloaded_jemalloc_every_plant_is_unmeasurable(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(JEMALLOC))
    code, text = doctor("", "nothing", "leak", gate=True)
    assert code == 1
    assert text.count("the allocator is jemalloc: it does not tell what is live") == 2
    assert "CANNOT BE TRUSTED" not in text


def test_under_another_allocator_it_says_that_nothing_can_be_told_and_fails(doctor: Doctor) -> None:
    foreign = """
        from pytest_rssguard.allocators.glibc import Glibc
        honest = Glibc.__init__
        def __init__(self):
            honest(self)
            self.active, self.why_not = False, "the allocator is jemalloc: it does not tell what is live"
        Glibc.__init__ = __init__
    """
    code, text = doctor(foreign, "trimmable", gate=True)
    assert code == 1
    assert "the allocator is jemalloc" in text
    assert "blind    trimmable" in text
    assert "A leak would pass" in text
    assert "CANNOT BE TRUSTED" not in text


NO_PAGEMAP = """
    import errno
    from pytest_rssguard.image import Image
    honest = Image._open
    def _open(self, path):
        if path.endswith("pagemap"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return honest(self, path)
    Image._open = _open
"""


def test_without_pagemap_freed_memory_is_one_sum_and_that_is_said(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_rssguard.image import Image  # noqa: PLC0415 - broken here as it is in the fresh processes

    def refuse(_self: Image, path: str) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Image, "_open", refuse)
    code, text = doctor(NO_PAGEMAP, "leak", "trimmable")
    assert "coarse   trimmable" in text
    assert "right    leak" in text
    assert "lost: freed heap memory is one sum (free_heap)" in " ".join(text.split())
    assert code == 0


@pytest.mark.parametrize(
    ("name", "value", "plant"), [("PYTHONMALLOC", "malloc", "pool-free"), ("MALLOC_ARENA_MAX", "1", "arena top")]
)
def test_a_pattern_that_cannot_exist_is_named_and_no_failure(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, name: str, value: str, plant: str
) -> None:
    monkeypatch.setenv(name, value)
    code, text = doctor("", "leak", plant)
    assert code == 0, text
    assert f"not here {plant}" in text
    assert name in text


def test_with_debug_hooks_blocks_are_larger_and_counted_as_such(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONMALLOC", "debug")
    code, text = doctor("", "leak of objects", "pool-free")
    assert code == 0, text
    assert "22.9 MiB of 22.9 MiB" in text


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_the_right_finding_passes(plant: Plant) -> None:
    assert assess(plant, good(plant), census=True).answer is Answer.RIGHT


@pytest.mark.parametrize("plant", [plant for plant in PLANTS if plant.account], ids=lambda plant: plant.name)
@pytest.mark.parametrize("side", [-1, 1])
def test_bytes_outside_the_bounds_are_wrong_on_both_sides(plant: Plant, side: int) -> None:
    assert plant.account is not None
    size = bounds(plant.planted)[0] - 1 if side < 0 else bounds(plant.planted)[1] + 1
    found = good(plant, growth=size, accounts={**dict.fromkeys(Account, 0), plant.account: size})
    check = assess(plant, found, census=True)
    assert check.answer is Answer.WRONG
    assert " on " in check.said[0]


def test_growth_without_a_plant_is_wrong() -> None:
    found = good(BY_NAME["nothing"], growth=1 << 20, accounts={Account.MAPPED: 1 << 20})
    assert assess(BY_NAME["nothing"], found, census=True).answer is Answer.WRONG


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": Outcome.GREW.value},
        {"masked": True},
        {"growth": LEAK.planted + 1},
        {"problems": ("a heap does not end",)},
        {"accounts": {Account.MALLOC_LIVE: LEAK.planted - (1 << 19), Account.UNEXPLAINED: 1 << 19}},
        {"accounts": {Account.MALLOC_LIVE: None}},
        {"allocated": None},
        {"allocated": LEAK.planted // 2},
        {"allocated": LEAK.planted * 2},
    ],
)
def test_one_thing_wrong_is_enough(changes: dict[str, object]) -> None:
    assert assess(LEAK, good(LEAK, **changes), census=True).answer is Answer.WRONG


def test_one_sum_is_accepted_only_where_nobody_can_divide() -> None:
    plant = BY_NAME["trimmable"]
    sums: dict[str, int | None] = {Account.TRIMMABLE: None, Account.FREE_HEAP: plant.planted}
    found = good(plant, accounts=sums)
    assert assess(plant, found, census=False).answer is Answer.COARSE
    assert assess(plant, found, census=True).answer is Answer.WRONG
    sums[Account.FREE_HEAP] = plant.planted // 2
    assert assess(plant, good(plant, accounts=sums, growth=plant.planted // 2), census=False).answer is Answer.WRONG


def test_a_census_that_does_not_close_is_not_missing() -> None:
    names = ("smaps", "residency", "memory", "malloc")
    able = tuple(Capability(name=name, present=True, probed="") for name in names)
    assert can_divide((*able, Capability(name="census", present=False, probed="")))
    for name in names:
        lacking = tuple(dataclasses.replace(each, present=each.name != name) for each in able)
        assert not can_divide(lacking)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"outcome": "returned"}', "Traceback"])
def test_what_is_no_finding_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_finding(text)


@pytest.mark.parametrize(
    ("found", "code", "answer"),
    [
        ({"test_clean": "returned", "test_leak": "leaked"}, 1, Answer.RIGHT),
        ({"test_clean": "returned", "test_leak": "leaked"}, 0, Answer.WRONG),
        ({"test_clean": "leaked", "test_leak": "leaked"}, 1, Answer.WRONG),
        ({"test_clean": "returned", "test_leak": "returned"}, 0, Answer.WRONG),
        ({"test_leak": "leaked"}, 1, Answer.WRONG),
        ({"test_clean": "unmeasurable", "test_leak": "unmeasurable"}, 0, Answer.BLIND),
    ],
)
def test_the_gate_needs_both_tests_and_the_exit_code(found: dict[str, str], code: int, answer: Answer) -> None:
    assert diagnosis.judge_gate(found, exit_code=code).answer is answer


def test_bad_arguments_are_exit_code_2() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--yaml"])
    assert ended.value.code == 2
