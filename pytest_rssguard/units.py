"""Sizes: text to bytes and back. Knows nothing of memory."""

from __future__ import annotations

import re
from typing import Final

from pytest_rssguard.errors import SettingError

_FACTORS: Final = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE: Final = re.compile(
    r"\s*(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:(?P<unit>[KMG])I?B|B)?\s*", re.IGNORECASE | re.ASCII
)
_ACCEPTED: Final = 'a size such as "4MB", "512 KiB", "1.5 GiB" or an int of bytes, not negative (MB = MiB = 1024**2 bytes)'
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")
#: No address space of today is larger (2**57 bytes with five-level page tables).
_LARGEST: Final = 1 << 57


def parse_size(value: object, *, name: str) -> int:
    """Return the size that `value` names, in bytes.

    `MB` and `MiB` both mean 1024**2, as every memory tool for pytest reads them; decimals, blanks and any case are
    accepted. Raises SettingError (which names `name`) for anything else, bool included.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise SettingError(name=name, given=value, accepted=_ACCEPTED)
    if isinstance(value, int):
        size = value
    else:
        found = _SIZE.fullmatch(value) if len(value) <= 40 else None
        if found is None:
            raise SettingError(name=name, given=value, accepted=_ACCEPTED)
        size = round(float(found["number"]) * _FACTORS[(found["unit"] or "").upper()])
    if not 0 <= size <= _LARGEST:
        raise SettingError(name=name, given=value, accepted=_ACCEPTED)
    return size


def format_size(size: int) -> str:
    """Return `size` bytes in IEC units with three significant digits: "4.00 MiB", "76.3 MiB", "-12.0 KiB", "48 B".

    From 1000 of a unit on it is the next one: "0.977 MiB".
    """
    magnitude = abs(size)
    if magnitude < 1024:
        return f"{size} B"
    scaled = float(magnitude)
    exponent = 0
    while exponent < len(_UNITS) and (exponent == 0 or scaled >= 999.5):
        scaled /= 1024
        exponent += 1
    digits = 3 if scaled < 0.9995 else 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{'-' if size < 0 else ''}{scaled:.{digits}f} {_UNITS[exponent - 1]}"


def format_change(size: int) -> str:
    """Return `size` with its sign: "+4.00 MiB", "-12.0 KiB", "+0 B"."""
    return f"+{format_size(size)}" if size >= 0 else format_size(size)
