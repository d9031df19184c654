from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard import arenas
from pytest_rssguard.arenas import BINS, ArenaState, find_state, first_chunk, heap_header_size
from tests.builders import words

BASE = 0x7F00_0000_0000


def state_words(
    *,
    base: int = BASE,
    fast: tuple[int, ...] = (0,) * 10,
    before: int = 2,
    used: frozenset[int] = frozenset(),
    top: int = 0x5555_5560_0000,
    following: int = BASE + 8,
    attached: int = 1,
    system_mem: int = 132 << 10,
    max_system_mem: int = 1 << 20,
    behind: int = 8,
) -> list[int]:
    """Return the words of a malloc_state: lock words, fastbins, top, last_remainder, bins, and what follows them."""
    found = [1] * before + list(fast) + [top, 0]
    for bin_ in range(BINS // 2):
        at = base + 8 * len(found) - 16
        found += [0x5555_5558_0000, 0x5555_5558_0040] if bin_ in used else [at, at]
    found += [0, 0]  # binmap
    return found + [following, 0, attached, system_mem, max_system_mem] + [0] * behind


def test_a_state_is_found_by_its_empty_bins() -> None:
    fast = tuple(range(0x1000, 0x1000 + 160, 16))
    found = find_state(words(state_words(fast=fast)), BASE)
    assert found == ArenaState(
        bins=BASE + 8 * 14,
        top=0x5555_5560_0000,
        fastbins=fast,
        next=BASE + 8,
        system_mem=132 << 10,
        end=BASE + 8 * (14 + BINS + 2 + 5),
    )


def test_a_state_without_room_for_fastbins_before_it_has_none() -> None:
    found = find_state(words(state_words(fast=(), before=3)), BASE)
    assert found is not None
    assert (found.fastbins, found.bins) == ((), BASE + 8 * 5)


@pytest.mark.parametrize("used", [frozenset({0}), frozenset({0, 1, 5}), frozenset(range(60)), frozenset(range(67, 127))])
def test_a_state_is_found_where_some_bins_are_in_use(used: frozenset[int]) -> None:
    found = find_state(words(state_words(used=used)), BASE)
    assert found is not None
    assert found.bins == BASE + 8 * 14


def test_two_empty_bins_are_proof_enough_where_all_others_are_list_heads() -> None:
    assert find_state(words(state_words(used=frozenset(range(125)))), BASE) is not None
    assert find_state(words(state_words(used=frozenset(range(126)))), BASE) is None


def test_a_bin_that_can_be_no_list_head_is_no_arena() -> None:
    made = state_words()
    at = next(at for at in range(len(made) - 1) if made[at] == BASE + 8 * at - 16 == made[at + 1])
    for strange in (0, 7, 1 << 63):
        assert find_state(words([*made[: at + 20], strange, *made[at + 21 :]]), BASE) is None


@pytest.mark.parametrize("binmap", [(0x2000_0010, 0x4000_0000), (0, 16), (1 << 40, 1 << 20)])
def test_a_state_is_not_found_a_few_bins_too_early(binmap: tuple[int, int]) -> None:
    # the last bins are in use: as many empty bins lie in a window that starts two bins before
    noted = state_words(used=frozenset({0, 125, 126}), fast=(0,) * 8 + (0x5555_5558_0000,) * 2)
    noted[14 + BINS : 14 + BINS + 2] = binmap
    found = find_state(words(noted), BASE)
    assert found is not None
    assert found.bins == BASE + 8 * 14


def test_a_state_is_not_found_a_few_bins_too_late() -> None:
    # its first bins are in use: as many empty ones lie in a window that starts behind them, where what follows the state
    # could be an arena's sizes
    noted = state_words(used=frozenset({0, 1}))
    noted[-8:] = [0, 0, 0x1230, 0x4560, 0, 0, 0, 0]
    found = find_state(words(noted), BASE)
    assert found is not None
    assert found.bins == BASE + 8 * 14


@pytest.mark.parametrize(
    "wrong",
    [
        {"top": 0},
        {"top": 0x5555_5560_0008},
        {"following": 0},
        {"following": BASE + 4},
        {"attached": (1 << 20) + 1},
        {"system_mem": 0},
        {"system_mem": 100},
        {"max_system_mem": 4096},
    ],
)
def test_a_state_with_values_that_no_arena_has_is_not_one(wrong: dict[str, int]) -> None:
    assert find_state(words(state_words(**wrong)), BASE) is None  # type: ignore[arg-type]


def test_a_state_cut_short_is_not_read_past_its_end() -> None:
    whole = state_words(behind=0)
    # seven words follow the bins in glibc; max_system_mem is the last that is read
    assert find_state(words(whole), BASE) is not None
    for length in range(len(whole)):
        assert find_state(words(whole[:length]), BASE) is None


def test_bins_cannot_start_before_a_top() -> None:
    assert arenas._plausible(words(state_words()), BASE, 1) is None


def test_of_two_states_the_one_with_more_empty_bins_is_taken() -> None:
    first = state_words(used=frozenset(range(80)))
    second = state_words(base=BASE + 8 * len(first), top=0x6000_0000_0000)
    found = find_state(words(first + second), BASE)
    assert found is not None
    assert found.top == 0x6000_0000_0000


def test_the_first_chunk_of_a_thread_heap_is_aligned_behind_its_state() -> None:
    state = find_state(words(state_words()), BASE)
    assert state is not None
    chunk = first_chunk(state)
    assert chunk % 16 == 0
    assert 0 <= chunk - state.end < 16


@pytest.mark.parametrize(
    ("heap_info", "expected"),
    [
        ([0, 0, 132 << 10, 132 << 10, 4096, 0], 48),
        ([0, 0, 132 << 10, 132 << 10, 1 << 21, 0], 48),
        ([0, 0, 132 << 10, 132 << 10, 0, 0], 32),
        ([0, 0, 132 << 10], 32),
    ],
)
def test_a_heap_header_with_a_page_size_is_the_longer_one(heap_info: list[int], expected: int) -> None:
    assert heap_header_size(words(heap_info)) == expected


@settings(deadline=None, max_examples=60)
@given(
    noise=st.lists(st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from((0, 1, 4096, BASE, 16))), max_size=600),
    damage=st.lists(st.tuples(st.integers(0, 279), st.integers(0, (1 << 64) - 1)), max_size=30),
    before=st.integers(0, 40),
)
def test_random_words_hold_a_state_or_none(noise: list[int], damage: list[tuple[int, int]], before: int) -> None:
    find_state(words(noise), BASE)
    damaged = state_words(before=before)
    for at, value in damage:
        damaged[at] = value
    found = find_state(words(damaged), BASE)
    assert found is None or (found.top and not found.top & 15 and found.system_mem > 0)


def test_a_page_of_nothing_but_self_pointing_pairs_is_no_state_and_takes_no_time() -> None:
    pairs = [BASE + 8 * (at & -2) - 16 for at in range(4096)]
    assert find_state(words(pairs), BASE) is None
