from __future__ import annotations

import pytest

from pytest_rssguard import errors
from pytest_rssguard.errors import (
    InconsistentMemoryError,
    ProcessError,
    RssGuardError,
    SettingError,
    UnknownArgumentError,
    UnreadableError,
)


def test_a_setting_error_says_what_was_given_and_what_is_accepted() -> None:
    error = SettingError(name="trim", given=3, accepted="True or False")
    assert str(error) == "trim=3: expected True or False"
    assert (error.name, error.given, error.accepted, error.advice) == ("trim", 3, "True or False", "")


def test_a_setting_error_can_be_told_again_under_another_name() -> None:
    error = SettingError(name="trim", given=3, accepted="True or False", advice="leave it out")
    assert str(error.named("rssguard_trim")) == "rssguard_trim=3: expected True or False; leave it out"


def test_a_setting_error_ends_with_its_advice() -> None:
    error = SettingError(name="rounds", given="x", accepted="1", advice="leave it out")
    assert str(error) == "rounds='x': expected 1; leave it out"


def test_the_echo_of_a_long_value_is_cut() -> None:
    message = str(SettingError(name="reason", given="x" * 1000, accepted="a text"))
    assert message == f"reason='{'x' * 58}…: expected a text"


def test_an_unknown_argument_names_the_nearest_valid_one() -> None:
    error = UnknownArgumentError(given="tolerence", valid=("tolerance", "trim"))
    assert str(error) == "unknown argument 'tolerence', did you mean 'tolerance'? Valid: tolerance, trim"


def test_an_unknown_argument_near_none_lists_the_valid_ones() -> None:
    error = UnknownArgumentError(given="zzz", valid=("tolerance", "trim"))
    assert str(error) == "unknown argument 'zzz'. Valid: tolerance, trim"
    assert (error.given, error.valid) == ("zzz", ("tolerance", "trim"))


def test_inconsistent_memory_says_where() -> None:
    error = InconsistentMemoryError("impossible chunk size 3", address=0x7F00)
    assert str(error) == "impossible chunk size 3 at 0x7f00"
    assert (error.reason, error.address) == ("impossible chunk size 3", 0x7F00)
    assert str(InconsistentMemoryError("memory ended")) == "memory ended"


def test_address_zero_is_an_address() -> None:
    assert str(InconsistentMemoryError("no header", address=0)) == "no header at 0x0"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [(SettingError, ValueError), (UnknownArgumentError, TypeError), (UnreadableError, Exception)],
)
def test_errors_can_be_caught_as_ours_and_as_their_builtin_kind(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, RssGuardError)
    assert issubclass(error, builtin)


def test_every_error_has_a_slug_of_its_own() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RssGuardError)]
    slugs = sorted(each.slug for each in classes)
    assert slugs == [
        "bad-setting", "error", "inconsistent-memory", "process", "unknown-argument", "unreadable", "unreadable-baseline",
        "unreadable-report", "unwritable",
    ]  # fmt: skip


def test_a_process_that_cannot_be_read_is_named() -> None:
    error = ProcessError(7, "it has ended")
    assert (str(error), error.pid, error.reason) == ("process 7: it has ended", 7, "it has ended")
