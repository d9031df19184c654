"""What can go wrong before a verdict: settings that make no sense, memory that does not add up."""

from __future__ import annotations

from difflib import get_close_matches
from typing import ClassVar, Final

#: The longest echo of somebody's input in a message, in characters.
_ECHO: Final = 60


class RssGuardError(Exception):
    """Base of the errors that pytest-rssguard raises on its own behalf."""

    slug: ClassVar[str] = "error"


class SettingError(RssGuardError, ValueError):
    """A setting that cannot be used: says what was given, what is accepted and what to do."""

    slug: ClassVar[str] = "bad-setting"

    def __init__(self, *, name: str, given: object, accepted: str, advice: str = "") -> None:
        self.name, self.given, self.accepted, self.advice = name, given, accepted, advice
        echo = repr(given)
        if len(echo) > _ECHO:
            echo = f"{echo[: _ECHO - 1]}…"
        super().__init__(f"{name}={echo}: expected {accepted}" + (f"; {advice}" if advice else ""))

    def named(self, name: str) -> SettingError:
        """Return the same error about `name`: where the value came from decides what to call it."""
        return SettingError(name=name, given=self.given, accepted=self.accepted, advice=self.advice)


class UnknownArgumentError(RssGuardError, TypeError):
    """An argument that does not exist: lists the valid ones and the nearest of them."""

    slug: ClassVar[str] = "unknown-argument"

    def __init__(self, *, given: str, valid: tuple[str, ...]) -> None:
        self.given = given
        self.valid = valid
        near = get_close_matches(given, valid, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown argument {given!r}{hint or '.'} Valid: {', '.join(valid)}")


class InconsistentMemoryError(RssGuardError):
    """Memory that does not read like what it was taken for: the census degrades and says so."""

    slug: ClassVar[str] = "inconsistent-memory"

    def __init__(self, reason: str, *, address: int | None = None) -> None:
        self.reason = reason
        self.address = address
        super().__init__(reason if address is None else f"{reason} at {address:#x}")


class UnreadableError(RssGuardError):
    """A file under /proc that is missing, refuses to be read, or holds text that is no such file's."""

    slug: ClassVar[str] = "unreadable"


class UnreadableReportError(UnreadableError):
    """A report file that is missing, damaged, of a newer schema or no report at all: one line that says which."""

    slug: ClassVar[str] = "unreadable-report"


class UnwritableError(RssGuardError):
    """An output file that cannot be written."""

    slug: ClassVar[str] = "unwritable"


class UnreadableBaselineError(UnreadableError):
    """A baseline file that is missing, damaged, of a newer schema or no baseline at all: one line that says which."""

    slug: ClassVar[str] = "unreadable-baseline"


class ProcessError(UnreadableError):
    """A process that cannot be read: which one, and why, in one line."""

    slug: ClassVar[str] = "process"

    def __init__(self, pid: int, reason: str) -> None:
        self.pid, self.reason = pid, reason
        super().__init__(f"process {pid}: {reason}")
