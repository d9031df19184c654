"""From markers, ini values and command line to one frozen Settings. Pure: no pytest, every bad value a clear error.

Precedence: built-in < ini < command line < marker; among markers the closest node wins, argument by argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from pytest_rssguard.errors import SettingError, UnknownArgumentError
from pytest_rssguard.model import Limit, Retained
from pytest_rssguard.units import parse_size

ARGUMENTS: Final = ("tolerance", "trim", "retained", "rounds", "warmup", "within", "scope", "reason")
_TRUE: Final = {"1", "true", "yes", "on"}
_FALSE: Final = {"0", "false", "no", "off"}
_LATER: Final = "a later version; this one measures one run of the test body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one test is guarded. Sizes in bytes, `scale` is a factor on the tolerance."""

    tolerance: int = 4 << 20
    trim: bool = False
    retained: Retained | int = Retained.FAIL
    reason: str | None = None
    scale: float = 1.0

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
        values = validate(arguments)
        return replace(self, **values)


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
        if name == "tolerance":
            values[name] = _tolerance(value)
        elif name == "trim":
            values[name] = parse_flag(value, name=name)
        elif name == "retained":
            values[name] = parse_retained(value)
        elif name == "reason":
            if not isinstance(value, str):
                raise SettingError(name=name, given=value, accepted="a text")
            values[name] = value
        else:
            _reject_later(name, value)
    return values


def _tolerance(value: object) -> int:
    size = parse_size(value, name="tolerance")
    if size == 0:
        raise SettingError(
            name="tolerance", given=value, accepted="more than 0 bytes",
            advice='0 needs repeated rounds, which are not yet available; "64 KiB" is above all noise',
        )  # fmt: skip
    return size


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


def _reject_later(name: str, value: object) -> None:
    """Refuse what is not yet available; its neutral value is accepted."""
    neutral: Mapping[str, object] = {"rounds": 1, "warmup": 0, "within": 0, "scope": "body"}
    if isinstance(value, bool) or value != neutral[name]:
        raise SettingError(
            name=name, given=value, accepted=f"{neutral[name]!r}",
            advice=f"anything else is not yet available: it comes with {_LATER}",
        )  # fmt: skip


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
