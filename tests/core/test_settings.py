from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pytest_rssguard.errors import RssGuardError, SettingError, UnknownArgumentError
from pytest_rssguard.model import Limit, Retained
from pytest_rssguard.settings import (
    ARGUMENTS,
    Settings,
    marker_arguments,
    merge,
    parse_flag,
    parse_retained,
    parse_scale,
    validate,
)
from tests.builders import MIB


def test_the_built_in_settings_fail_on_four_mebibytes() -> None:
    assert Settings() == Settings(tolerance=4 * MIB, trim=False, retained=Retained.FAIL, reason=None, scale=1.0)
    assert Settings().limit == Limit(tolerance=4 * MIB, retained=Retained.FAIL)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(retained=Retained.WARN), Limit(tolerance=4 * MIB, retained=Retained.WARN)),
        (Settings(retained=64 * MIB), Limit(tolerance=4 * MIB, budget=64 * MIB)),
        (Settings(retained=0), Limit(tolerance=4 * MIB, budget=0)),
        (Settings(tolerance=1000, scale=1.5), Limit(tolerance=1500)),
    ],
)
def test_settings_become_a_limit(settings: Settings, expected: Limit) -> None:
    assert settings.limit == expected


def test_only_the_policy_warn_warns() -> None:
    assert [Settings(retained=each).warns for each in (Retained.WARN, Retained.FAIL, 0)] == [True, False, False]


def test_arguments_are_put_in_the_place_of_what_was_set() -> None:
    base = Settings(tolerance=MIB, trim=True, scale=2.0)
    found = base.with_arguments({"tolerance": "2MB", "trim": None, "retained": "warn", "reason": "cold cache"})
    assert found == Settings(tolerance=2 * MIB, trim=True, retained=Retained.WARN, reason="cold cache", scale=2.0)


def test_rounds_and_the_like_are_read_as_python_ini_and_command_line_write_them() -> None:
    assert validate({"rounds": 5, "warmup": " 2 ", "within": "1.5", "scope": "test"}) == {
        "rounds": 5,
        "warmup": 2,
        "within": 1.5,
        "whole_test": True,
    }
    assert validate({"rounds": "1", "warmup": 0, "within": 0, "scope": "body"}) == {
        "rounds": 1,
        "warmup": 0,
        "within": 0.0,
        "whole_test": False,
    }


def test_nothing_at_all_may_be_tolerated_over_three_rounds() -> None:
    assert Settings().with_arguments({"tolerance": 0, "rounds": 3}).limit == Limit(tolerance=0)
    with pytest.raises(SettingError, match="tolerance=0: expected more than 0 bytes, or rounds=3 or more with it; "):
        Settings().with_arguments({"tolerance": 0, "rounds": 2})


def test_a_whole_test_is_never_repeated() -> None:
    base = Settings(rounds=5, warmup=1)
    found = base.with_arguments({"scope": "test"})
    assert (found.rounds, found.warmup, found.whole_test) == (1, 0, True)
    with pytest.raises(SettingError, match=r"rounds=5: expected 1 with scope=\"test\"; a test with its fixtures runs once"):
        base.with_arguments({"scope": "test", "rounds": 5})
    with pytest.raises(SettingError, match=r"warmup=1: expected 0 with scope"):
        base.with_arguments({"scope": "test", "warmup": 1})


def test_an_argument_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownArgumentError, match="'tolerence', did you mean 'tolerance'"):
        validate({"tolerence": "1MB"})


def test_an_argument_that_does_not_exist_is_refused_even_if_it_is_none() -> None:
    with pytest.raises(UnknownArgumentError, match="unknown argument 'xyz'"):
        validate({"xyz": None})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": "many"}, "tolerance='many': expected a size such as"),
        ({"tolerance": -1}, "tolerance=-1: expected a size such as"),
        ({"tolerance": True}, "tolerance=True: expected a size such as"),
        ({"trim": 1}, "trim=1: expected True or False"),
        ({"trim": "perhaps"}, "trim='perhaps': expected True or False"),
        ({"retained": "maybe"}, 'retained=\'maybe\': expected "fail", "warn", or a size such as "64MB"'),
        ({"retained": False}, "retained=False: expected "),
        ({"reason": 5}, "reason=5: expected a text"),
        ({"rounds": 0}, "rounds=0: expected a whole number from 1 to 10000"),
        ({"rounds": True}, "rounds=True: expected a whole number"),
        ({"rounds": "many"}, "rounds='many': expected a whole number"),
        ({"warmup": -1}, "warmup=-1: expected a whole number from 0 to 10000"),
        ({"warmup": 1.5}, "warmup=1.5: expected a whole number"),
        ({"within": -1}, "within=-1: expected seconds from 0 to 3600"),
        ({"within": "soon"}, "within='soon': expected seconds"),
        ({"within": True}, "within=True: expected seconds"),
        ({"within": 10**400}, "within=1000"),
        ({"within": float("nan")}, "within=nan: expected seconds"),
        ({"scope": "module"}, 'scope=\'module\': expected "body" (the test function alone) or "test"'),
        ({"scope": ["test"]}, "scope=['test']: expected "),
    ],
)
def test_a_bad_value_is_refused_with_what_is_accepted(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError) as raised:
        validate(arguments)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (False, False), ("1", True), (" Yes ", True), ("ON", True), ("false", False), ("no", False)],
)
def test_a_flag_is_read_as_ini_files_write_it(value: object, expected: bool) -> None:
    assert parse_flag(value, name="trim") is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("fail", Retained.FAIL), (" Warn ", Retained.WARN), ("64MB", 64 * MIB), (0, 0), (4096, 4096)],
)
def test_retained_is_a_policy_or_a_budget(value: object, expected: Retained | int) -> None:
    assert parse_retained(value) == expected


@pytest.mark.parametrize(("value", "expected"), [("1.5", 1.5), (2, 2.0), (1000, 1000.0), ("1e-3", 0.001)])
def test_a_scale_is_a_number(value: object, expected: float) -> None:
    assert parse_scale(value) == expected


@pytest.mark.parametrize("value", [0, -1, 1001, "x", "", "nan", "inf", None, True])
def test_a_scale_that_makes_no_sense_is_refused(value: object) -> None:
    with pytest.raises(SettingError, match="expected a factor over 0, at most 1000"):
        parse_scale(value)


def test_the_tolerance_may_be_given_by_position() -> None:
    assert marker_arguments(("1MB",), {"trim": True}) == {"tolerance": "1MB", "trim": True}
    assert marker_arguments((), {"trim": True}) == {"trim": True}


def test_a_second_positional_argument_is_refused() -> None:
    with pytest.raises(SettingError, match=r"name the others: trim=, retained=, rounds=, warmup=, within=, scope=, reason="):
        marker_arguments(("1MB", True), {})


def test_a_tolerance_given_twice_is_refused() -> None:
    with pytest.raises(SettingError, match="expected to be given once; remove one of the two"):
        marker_arguments(("1MB",), {"tolerance": "2MB"})


def test_markers_merge_by_argument_and_the_closest_wins() -> None:
    found = merge(
        Settings(),
        [
            {"tolerance": "1MB", "trim": None},
            {"tolerance": "2MB", "trim": True, "reason": "class"},
            {"trim": False, "reason": "module", "retained": "warn"},
        ],
    )
    assert found == Settings(tolerance=MIB, trim=True, reason="class", retained=Retained.WARN)


def test_none_leaves_what_ini_or_command_line_set() -> None:
    base = Settings(tolerance=MIB, trim=True)
    assert merge(base, [{"tolerance": None}, {"trim": None}]) == base
    assert merge(base, []) == base


def test_an_argument_set_to_none_is_still_checked_by_name() -> None:
    with pytest.raises(UnknownArgumentError):
        merge(Settings(), [{"tolerence": None}])


def test_a_bad_argument_of_a_farther_marker_that_is_overruled_is_not_looked_at() -> None:
    assert merge(Settings(), [{"tolerance": "1MB"}, {"tolerance": "bad"}]).tolerance == MIB


@hypothesis_settings(deadline=None)
@given(
    st.dictionaries(
        st.one_of(st.sampled_from(ARGUMENTS), st.text(max_size=12)),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            # one letter that only looks like a K is a case of its own in test_units.py
            st.text(st.characters(exclude_characters="\N{KELVIN SIGN}"), max_size=12),
            st.binary(max_size=4),
            st.lists(st.integers(), max_size=2),
        ),
        max_size=4,
    )
)
def test_any_arguments_make_settings_or_an_error_of_ours(arguments: dict[str, object]) -> None:
    try:
        found = merge(Settings(), [arguments])
    except RssGuardError:
        return
    assert found.tolerance > 0 or found.rounds >= 3
