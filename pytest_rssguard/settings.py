"""From markers, ini values and command line to one frozen Settings. Pure: no pytest, every bad value a clear error.

Precedence: built-in < ini < command line < marker; among markers the closest node wins, argument by argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from pytest_rssguard.errors import SettingError, UnknownArgumentError
from pytest_rssguard.model import Limit, Retained
from pytest_rssguard.units import parse_size

ARGUMENTS: Final = ("tolerance", "trim", "retained", "rounds", "warmup", "within", "scope", "reason")
_TRUE: Final = {"1", "true", "yes", "on"}
_FALSE: Final = {"0", "false", "no", "off"}
#: Fewer rounds do not tell first-use cost from a leak of a few bytes.
_ROUNDS_FOR_ZERO: Final = 3
_MOST_ROUNDS: Final = 10_000
_LONGEST_WAIT: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one test is guarded. Sizes in bytes, `scale` is a factor on the tolerance, `within` are seconds.

    `whole_test`: scope="test".
    """

    tolerance: int = 4 << 20
    trim: bool = False
    retained: Retained | int = Retained.FAIL
    reason: str | None = None
    scale: float = 1.0
    rounds: int = 1
    warmup: int = 0
    within: float = 0.0
    whole_test: bool = False

    @property
    def limit(self) -> Limit:
        """What a measurement is judged against."""
        tolerance = round(self.tolerance * self.scale)
        if isinstance(self.retained, Retained):
            return Limit(tolerance=tolerance, retained=self.retained)
        return Limit(tolerance=tolerance, budget=self.retained)

    @property
    def warns(self) -> bool:
        """Whether retained memory is a warning only."""
        return self.retained is Retained.WARN

    def with_arguments(self, arguments: Mapping[str, object]) -> Self:
        """Return these settings with every argument that is not None put in its place. Raises on a bad one."""
        found = replace(self, **validate(arguments))
        if found.whole_test:
            for name, neutral in (("rounds", 1), ("warmup", 0)):
                if arguments.get(name) not in {None, neutral}:
                    raise SettingError(
                        name=name, given=arguments[name], accepted=f'{neutral} with scope="test"',
                        advice='a test with its fixtures runs once; scope="body" can be repeated',
                    )  # fmt: skip
            found = replace(found, rounds=1, warmup=0)
        if not found.tolerance and found.rounds < _ROUNDS_FOR_ZERO:
            raise SettingError(
                name="tolerance", given=arguments.get("tolerance", 0),
                accepted=f"more than 0 bytes, or rounds={_ROUNDS_FOR_ZERO} or more with it",
                advice='one round cannot tell first-use cost from a leak; "64 KiB" is above all noise',
            )  # fmt: skip
        return found


def validate(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Return the Settings fields that `arguments` of the marker name. None means not set.

    Raises UnknownArgumentError or SettingError: what was given, what is accepted, what to do.
    """
    for name in arguments:
        if name not in ARGUMENTS:
            raise UnknownArgumentError(given=name, valid=ARGUMENTS)
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if value is None:
            continue
        values.update(_READERS[name](value))
    return values


def _count(value: object, *, name: str, least: int) -> int:
    """Return a whole number, as Python, ini files or the command line write it."""
    number = int(value) if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= _MOST_ROUNDS:
        raise SettingError(name=name, given=value, accepted=f"a whole number from {least} to {_MOST_ROUNDS}")
    return number


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_WAIT:
        raise SettingError(name="within", given=value, accepted=f"seconds from 0 to {_LONGEST_WAIT}, such as 1.5")
    return seconds


def _scope(value: object) -> bool:
    if value not in ("body", "test"):
        raise SettingError(name="scope", given=value, accepted='"body" (the test function alone) or "test" (its fixtures too)')
    return value == "test"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise SettingError(name="reason", given=value, accepted="a text")
    return value


def parse_flag(value: object, *, name: str) -> bool:
    """Return a yes or no: a bool, or its name as ini files write it."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    raise SettingError(name=name, given=value, accepted="True or False")


def parse_retained(value: object) -> Retained | int:
    """Return the policy "fail" or "warn", or a budget in bytes."""
    if isinstance(value, str) and value.strip().lower() in {policy.value for policy in Retained}:
        return Retained(value.strip().lower())
    try:
        return parse_size(value, name="retained")
    except SettingError:
        raise SettingError(
            name="retained", given=value, accepted='"fail", "warn", or a size such as "64MB" (its own budget)'
        ) from None


def parse_scale(value: object) -> float:
    """Return a factor on every tolerance: a number over 0, at most 1000."""
    try:
        scale = float(str(value))
    except ValueError:
        scale = 0.0
    if not 0 < scale <= 1000:
        raise SettingError(name="tolerance-scale", given=value, accepted="a factor over 0, at most 1000, such as 1.5")
    return scale


_READERS: Final[Mapping[str, Callable[[object], dict[str, Any]]]] = {
    "tolerance": lambda value: {"tolerance": parse_size(value, name="tolerance")},
    "trim": lambda value: {"trim": parse_flag(value, name="trim")},
    "retained": lambda value: {"retained": parse_retained(value)},
    "rounds": lambda value: {"rounds": _count(value, name="rounds", least=1)},
    "warmup": lambda value: {"warmup": _count(value, name="warmup", least=0)},
    "within": lambda value: {"within": _seconds(value)},
    "scope": lambda value: {"whole_test": _scope(value)},
    "reason": lambda value: {"reason": _text(value)},
}


def marker_arguments(args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of one marker by name. Raises SettingError for more than one positional argument."""
    if len(args) > 1:
        raise SettingError(
            name="rss_returns", given=args, accepted="one positional argument, the tolerance",
            advice="name the others: " + ", ".join(f"{name}=" for name in ARGUMENTS[1:]),
        )  # fmt: skip
    if args and "tolerance" in kwargs:
        raise SettingError(name="tolerance", given=args[0], accepted="to be given once", advice="remove one of the two")
    return {**({"tolerance": args[0]} if args else {}), **kwargs}


def merge(base: Settings, markers: Iterable[Mapping[str, object]]) -> Settings:
    """Return `base` with the markers' arguments over it; `markers` come closest first."""
    merged: dict[str, object] = {}
    for arguments in markers:
        for name, value in arguments.items():
            if value is not None and merged.get(name) is None:
                merged[name] = value
            else:
                merged.setdefault(name, None)
    return base.with_arguments(merged)
