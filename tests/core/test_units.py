from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.errors import SettingError
from pytest_rssguard.units import format_change, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4MB", 4 << 20),
        ("4MiB", 4 << 20),
        ("4 mb", 4 << 20),
        (" 512 KiB ", 512 << 10),
        ("1.5GiB", 3 << 29),
        (".5kb", 512),
        ("2.KB", 2048),
        ("100", 100),
        ("100b", 100),
        ("0", 0),
        ("0.4B", 0),
        (4096, 4096),
        (0, 0),
        (1 << 57, 1 << 57),
    ],
)
def test_a_size_is_read_in_any_spelling(text: object, expected: int) -> None:
    assert parse_size(text, name="tolerance") == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "MB",
        "4 TB",
        "4M",
        "-1",
        "1e6",
        "4MB MB",
        "1,5MB",
        "0x10",
        "9" * 41,
        "9" * 38 + "GB",
        -1,
        1 << 58,
        True,
        None,
        1.5,
        b"4MB",
    ],
)
def test_what_is_no_size_is_refused_with_what_is_accepted(value: object) -> None:
    with pytest.raises(SettingError, match=r"^tolerance=.*: expected a size such as \"4MB\""):
        parse_size(value, name="tolerance")


def test_letters_that_only_look_like_units_are_refused() -> None:
    with pytest.raises(SettingError):
        parse_size("4\N{KELVIN SIGN}B", name="tolerance")


@settings(deadline=None)
@given(st.one_of(st.text(), st.from_regex(r"\A[ 0-9.]{1,6}[kKmMgG]?[iI]?[bB]?\Z")))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        size = parse_size(text, name="tolerance")
    except SettingError:
        return
    assert 0 <= size <= 1 << 57


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (48, "48 B"),
        (-48, "-48 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (-12 * 1024, "-12.0 KiB"),
        (4 << 20, "4.00 MiB"),
        (80_000_000, "76.3 MiB"),
        (10_235, "10.0 KiB"),
        (102_350, "100 KiB"),
        (999 << 10, "999 KiB"),
        (1_095_216_660, "1.02 GiB"),
        (1_048_063, "1.00 MiB"),
        (1_048_064, "1.00 MiB"),
        (1 << 40, "1.00 TiB"),
        (1 << 50, "1.00 PiB"),
        (5000 << 50, "5000 PiB"),
    ],
)
def test_a_size_is_written_in_iec_units(size: int, expected: str) -> None:
    assert format_size(size) == expected


def test_a_size_just_under_the_next_unit_has_three_significant_digits_too() -> None:
    assert format_size(1000 << 10) == "0.977 MiB"


@settings(deadline=None)
@given(st.integers(-(1 << 57), 1 << 57))
def test_a_written_size_reads_back_to_within_its_digits(size: int) -> None:
    text = format_size(size)
    found = re.fullmatch(r"(-?)(\d+(?:\.\d+)?) (B|KiB|MiB|GiB|TiB|PiB)", text)
    assert found is not None
    factor = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB", "PiB").index(found[3])
    assert float(found[2]) * factor == pytest.approx(abs(size), rel=0.0055)
    assert len(text) <= len("-0.977 MiB")


@pytest.mark.parametrize(("size", "expected"), [(0, "+0 B"), (4 << 20, "+4.00 MiB"), (-2048, "-2.00 KiB")])
def test_a_change_always_has_a_sign(size: int, expected: str) -> None:
    assert format_change(size) == expected
