"""What each test may hold and retain, as it is committed: Baseline <-> JSON text, byte-stable. Pure. Schema 1.

One file an environment. Sizes in bytes, rounded up to 64 KiB; tests sorted; no time, no host: equal measurements give equal
bytes. The reader trusts nothing: whoever edits the file by hand gets one line that says what is wrong and where.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any, Final

from pytest_rssguard.errors import UnreadableBaselineError, UnreadableError
from pytest_rssguard.json_stream import LARGEST_VALUE, Scanner
from pytest_rssguard.json_values import array, count, mapping, text

SCHEMA: Final = 1
QUANTUM: Final = 64 << 10
#: More tests than any suite has: a file with more is no baseline of ours.
MOST_TESTS: Final = 1_000_000
#: Rounds that an entry keeps of the run that wrote it.
MOST_SAMPLES: Final = 100
_NAMES: Final = ("schema", "environment", "tests")
#: In characters as they are written: an entry of ours is never too long to be read again.
_LONGEST_NODEID: Final = LARGEST_VALUE // 2
_LONGEST_TEXT: Final = LARGEST_VALUE // 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one test may hold and retain: bytes, whole multiples of 64 KiB where we wrote them, never negative.

    `samples`, `retained_samples`: held and retained of each round of the run that wrote the entry. `src`: the hash of the
    test's syntax tree then, "" where there is none. `note`, `expires` (the last day on which a regression is waived) are
    written by hand and kept by updates.
    """

    held: int
    retained: int
    samples: tuple[int, ...] = ()
    retained_samples: tuple[int, ...] = ()
    src: str = ""
    note: str | None = None
    expires: date | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values, what is empty left out."""
        return {
            "held": self.held,
            "retained": self.retained,
            "samples": list(self.samples),
            **({"retained_samples": list(self.retained_samples)} if self.retained_samples else {}),
            "src": self.src,
            **({} if self.note is None else {"note": self.note}),
            **({} if self.expires is None else {"expires": self.expires.isoformat()}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The entries of one environment, by nodeid."""

    key: str
    tests: Mapping[str, Entry]


def round_up(size: int) -> int:
    """Return `size` bytes as an entry has it: never negative, a whole multiple of 64 KiB."""
    return -(-max(size, 0) // QUANTUM) * QUANTUM


def may_stand(nodeid: str) -> bool:
    """Whether `nodeid` may be in a baseline: its file lies below pytest's rootdir, and its name has a sane length."""
    path = PurePosixPath(nodeid.partition("::")[0].replace("\\", "/"))
    inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return inside and "\x00" not in nodeid and len(json.dumps(nodeid)) <= _LONGEST_NODEID


def dump_baseline(baseline: Baseline) -> str:
    """Return the text of `baseline`: one line a field, so that a change of one test is a change of its lines."""
    head = f'{{\n  "schema": {SCHEMA},\n  "environment": {{"key": {json.dumps(baseline.key)}}},\n  "tests": {{'
    tests = ",\n".join(
        f"    {json.dumps(nodeid)}: {{\n" + ",\n".join(
            f"      {json.dumps(name)}: {json.dumps(value)}" for name, value in entry.to_json().items()
        ) + "\n    }"
        for nodeid, entry in sorted(baseline.tests.items())
    )  # fmt: skip
    return head + (f"\n{tests}\n  }}\n}}\n" if tests else "}\n}\n")


def parse_baseline(pieces: Iterable[str], *, key: str) -> Baseline:
    """Return the baseline in a text that comes in `pieces` (json_stream.PIECE); `key`: the environment that it must be of.

    Raises UnreadableBaselineError with one line: what is wrong, and at which test.
    """
    scanner = Scanner(iter(pieces))
    try:
        return _baseline(scanner, key)
    except UnreadableBaselineError:
        raise
    except UnreadableError as error:
        raise UnreadableBaselineError(f"no baseline: {error}") from None


def _baseline(scanner: Scanner, key: str) -> Baseline:
    tests: dict[str, Entry] | None = None
    schema: object = None
    environment: object = None
    for name in scanner.members():
        if name == "schema":
            schema = _schema(scanner.value())
        elif name == "environment":
            environment = _environment(scanner.value(), key)
        elif name == "tests" and tests is None:
            tests = _tests(scanner)
        else:
            raise UnreadableBaselineError(f"no baseline: {name!r:.60} where one of {', '.join(_NAMES)} belongs")
    scanner.end()
    for name, value in zip(_NAMES, (schema, environment, tests), strict=True):
        if value is None:
            raise UnreadableBaselineError(f"no baseline: {name} is missing")
    assert tests is not None
    return Baseline(key=key, tests=tests)


def _schema(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < SCHEMA:
        raise UnreadableBaselineError(f"schema {value!r:.40}: expected {SCHEMA}")
    if value > SCHEMA:
        raise UnreadableBaselineError(
            f"schema {str(value)[:20]} is newer than {SCHEMA}, which this version reads: update pytest-rssguard"
        )
    return value


def _environment(value: object, key: str) -> str:
    found = value.get("key") if isinstance(value, Mapping) else None
    if found != key:
        raise UnreadableBaselineError(f"it holds the baseline of {found!r:.80}; expected {key!r} as its file name says")
    return key


def _tests(scanner: Scanner) -> dict[str, Entry]:
    tests: dict[str, Entry] = {}
    for number, nodeid in enumerate(scanner.members(), 1):
        if number > MOST_TESTS:
            raise UnreadableBaselineError(f"more than {MOST_TESTS:,} tests")
        if not may_stand(nodeid):
            raise UnreadableBaselineError(f"test {nodeid!r:.80}: expected the nodeid of a test below pytest's rootdir")
        if nodeid in tests:
            raise UnreadableBaselineError(f"test {nodeid!r:.80}: stands there twice")
        try:
            tests[nodeid] = _entry(mapping(scanner.value()))
        except (TypeError, ValueError) as error:
            raise UnreadableBaselineError(f"test {nodeid!r:.80}: {error}") from None
    return tests


def _size(value: object) -> int:
    if count(value) > 1 << 57:
        raise ValueError(f"no size: {value}")
    return count(value)


def _sizes(value: object) -> tuple[int, ...]:
    if len(array(value)) > MOST_SAMPLES:
        raise ValueError(f"expected at most {MOST_SAMPLES}")
    return tuple(_size(each) for each in array(value))


def _short(value: object) -> str:
    if len(json.dumps(text(value))) > _LONGEST_TEXT:
        raise ValueError(f"longer than {_LONGEST_TEXT:,} characters")
    return text(value)


def _day(value: object) -> date:
    try:
        return date.fromisoformat(text(value))
    except ValueError:
        raise ValueError(f'expected a day such as "2027-03-31", got {value!r:.40}') from None


_FIELDS: Final[Mapping[str, Callable[[object], Any]]] = {
    "held": _size, "retained": _size, "samples": _sizes, "retained_samples": _sizes, "src": _short,
    "note": _short, "expires": _day,
}  # fmt: skip


def _entry(values: Mapping[str, Any]) -> Entry:
    found: dict[str, Any] = {}
    for name, value in values.items():
        read = _FIELDS.get(name)
        if read is None:
            near = get_close_matches(name, _FIELDS, n=1, cutoff=0.5)
            raise ValueError(f"unknown {name!r:.40}{f', did you mean {near[0]!r}?' if near else ''}")
        try:
            found[name] = read(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    for name in ("held", "retained"):
        if name not in found:
            raise ValueError(f"{name} is missing")
    return Entry(**found)
