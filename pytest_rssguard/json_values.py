"""JSON that somebody else may have written: bounded, and every value of the kind that is expected. Pure.

Each function returns the value it was given or raises TypeError or ValueError; `parse_object` raises UnreadableError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from pytest_rssguard.errors import UnreadableError

#: No size in bytes is larger in either direction, and every reader of JSON can hold it.
LARGEST: Final = (1 << 63) - 1
_ECHO: Final = 40


def parse_object(text: str | bytes, *, what: str) -> dict[str, Any]:
    """Return the object in `text`. Raises UnreadableError, one line that begins with `what`."""
    try:
        values = json.loads(text, parse_float=_finite, parse_constant=_no_constant)
    except RecursionError:
        raise UnreadableError(f"{what}: nested too deep") from None
    except ValueError as error:  # also UnicodeDecodeError, and numbers of more than 4,300 digits
        raise UnreadableError(f"{what}: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(values, dict):
        raise UnreadableError(f"{what}: expected an object, got {type(values).__name__}")
    return values


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"number out of range: {digits[:_ECHO]}")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"not a JSON number: {name}")


def integer(value: object) -> int:
    """Return `value`, a size or a count: an int of at most 63 bits, no bool."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected an integer, got {_echo(value)}")
    if not -LARGEST <= value <= LARGEST:
        raise ValueError("integer of more than 63 bits")
    return value


def count(value: object) -> int:
    """Return `value`, an int that is not negative."""
    if integer(value) < 0:
        raise ValueError(f"expected no negative number, got {value}")
    return integer(value)


def number(value: object) -> float:
    """Return `value`, a finite number, as float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, got {_echo(value)}")
    if not abs(value) <= LARGEST:  # also refuses what is not a number
        raise ValueError("number out of range")
    return float(value)


def text(value: object) -> str:
    """Return `value`, a text."""
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {_echo(value)}")
    return value


def flag(value: object) -> bool:
    """Return `value`, true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {_echo(value)}")
    return value


def array(value: object) -> list[Any] | tuple[Any, ...]:
    """Return `value`, a list. Some transports make lists tuples and tuples lists: both are taken."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"expected a list, got {_echo(value)}")
    return value


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value`, an object."""
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, got {_echo(value)}")
    return value


def shallow(value: object, *, levels: int) -> Any:  # noqa: ANN401 - any JSON value, checked here
    """Return `value`, any JSON value nested at most `levels` deep."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        return value if isinstance(value, float) and math.isfinite(value) else integer(value)
    if levels == 0:
        raise ValueError("nested too deep")
    if isinstance(value, Mapping):
        return {text(name): shallow(inner, levels=levels - 1) for name, inner in value.items()}
    return [shallow(inner, levels=levels - 1) for inner in array(value)]


def _echo(value: object) -> str:
    echo = repr(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
    return echo if len(echo) <= _ECHO else f"{echo[: _ECHO - 1]}…"
