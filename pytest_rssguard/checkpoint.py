"""The regression gate in the process that runs a test: compare it with the committed baseline, in its own call phase."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import pytest

from pytest_rssguard.baseline import Baseline, Entry, parse_baseline
from pytest_rssguard.environment import environment
from pytest_rssguard.errors import SettingError, UnreadableBaselineError
from pytest_rssguard.failures import RssRegression
from pytest_rssguard.fingerprint import Function, find_hash, parse_functions
from pytest_rssguard.gate import Excess, Metric, Mode, Sizes, Standing, compare
from pytest_rssguard.json_stream import PIECE
from pytest_rssguard.options import baseline_folder
from pytest_rssguard.regression import Confirmation, explain_regression, explain_unfailed
from pytest_rssguard.result import Result
from pytest_rssguard.settings import Settings

#: A baseline of 100,000 tests has some 25 MiB.
_LARGEST_FILE: Final = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one test stands. `excess`: the regression to fail for, if any; `text`: that failure, or a warning, or "".

    `result`: the measurement that a regression is told of.
    """

    standing: Standing
    excess: Excess | None = None
    text: str = ""
    result: Result | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the baseline of this environment is. `given`: the folder as the user named it."""

    folder: Path
    given: str
    key: str

    @property
    def path(self) -> Path:
        """The file, whether it exists or not."""
        return self.folder / f"{self.key}.json"

    @property
    def shown(self) -> str:
        """The file as the user would name it."""
        return f"{self.given.rstrip('/')}/{self.key}.json"


class Sources:
    """Hashes of test functions, each file read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, tuple[Function, ...]] = {}

    def hash(self, file: str, line: int | None) -> str:
        """Return the hash of the function at `line` (from 1) of `file`, "" where it cannot be read."""
        if line is None:
            return ""
        if file not in self._files:
            try:
                source = (self._root / file).read_text(encoding="utf-8")
            except (OSError, ValueError):
                source = ""
            self._files[file] = parse_functions(source)
        return find_hash(self._files[file], line)


class Checkpoint:
    """Compares tests with a baseline."""

    def __init__(self, place: Place, *, root: Path, mode: Mode | None, today: date) -> None:
        self.place = place
        self.mode = mode
        self.today = today
        self.sources = Sources(root)

    @cached_property
    def baseline(self) -> Baseline | None:
        """The baseline, None where there is no file. Raises UnreadableBaselineError."""
        return read_baseline(self.place)

    def check(
        self, item: pytest.Item, sizes: Sizes, result: Result | None, *, settings: Settings,
        confirm: Callable[[], Confirmation],
    ) -> Finding:  # fmt: skip
        """Return how `item` stands with `sizes`. `result`: what they come from, None where a cheap look saw them.

        `confirm` runs the body again; it is asked only when a regression is about to be called.
        """
        entry = self.baseline.tests.get(item.nodeid) if self.baseline else None
        if entry is None:
            return Finding(standing=Standing.NEW)
        excesses = tuple(compare(entry, sizes))
        if standing := self._harmless(entry, excesses):
            return Finding(standing=standing)
        path, line, _ = item.location
        src = self.sources.hash(path, None if line is None else line + 1) if entry.src else ""
        if src and src != entry.src:
            why = "no regression is called, since the test itself was changed: take a new baseline with --rssguard-update=all"
            return Finding(standing=Standing.CHANGED, text=explain_unfailed(excesses, why=why))
        return self._confirmed(item, result, entry, excesses, confirm(), settings)

    def _harmless(self, entry: Entry, excesses: Sequence[Excess]) -> Standing | None:
        """Return how a test stands of which nothing more need be known; None where a regression may have to be called."""
        if not excesses:
            return Standing.WITHIN
        if self.mode is Mode.ALL:
            return Standing.ACCEPTED
        return Standing.WAIVED if entry.expires is not None and entry.expires >= self.today else None

    def _confirmed(
        self, item: pytest.Item, result: Result | None, entry: Entry, excesses: Sequence[Excess],
        confirmation: Confirmation, settings: Settings,
    ) -> Finding:  # fmt: skip
        told = result or confirmation.result
        if confirmation.trouble or told is None:
            trouble = confirmation.trouble and f"the second run of the body, to confirm it, raised {confirmation.trouble}"
            why = f"no regression is called, since {trouble or f'it cannot be confirmed: {confirmation.impossible}'}"
            return Finding(standing=Standing.UNCONFIRMED, text=explain_unfailed(excesses, why=why))
        stand = [excess for excess in excesses if confirmation.confirms(excess)]
        if not stand:
            return Finding(standing=Standing.ONCE)
        if settings.warns and all(excess.metric is Metric.RETAINED for excess in stand):
            text = explain_unfailed(stand, why='a warning, as retained="warn" asks for')
            return Finding(standing=Standing.WARNED, text=text)
        text = explain_regression(
            stand, told, confirmation=confirmation, entry=entry, today=self.today, nodeid=item.nodeid,
            folder=self.place.given, file=self.place.shown,
            marked=item.get_closest_marker("rss_returns") is not None, reason=settings.reason,
        )  # fmt: skip
        name = RssRegression.__name__
        return Finding(standing=Standing.REGRESSED, excess=stand[0], text=f"{name}: {text}", result=told)


def read_baseline(place: Place) -> Baseline | None:
    """Return the baseline of `place`, None where no file is. Raises UnreadableBaselineError, one line with the path."""
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableBaselineError(f"{place.shown}: cannot be read ({error.strerror})") from None
    try:
        return parse_baseline(_pieces(descriptor), key=place.key)
    except OSError as error:
        raise UnreadableBaselineError(f"{place.shown}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UnreadableBaselineError(f"{place.shown}: no baseline: no UTF-8 ({error.reason})") from None
    except UnreadableBaselineError as error:
        raise UnreadableBaselineError(f"{place.shown}: {error}") from None
    finally:
        os.close(descriptor)


def _pieces(descriptor: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    total = 0
    while data := os.read(descriptor, PIECE):
        total += len(data)
        if total > _LARGEST_FILE:
            raise UnreadableBaselineError(f"larger than {_LARGEST_FILE >> 20} MiB, no baseline of ours is")
        if text := decoder.decode(data):
            yield text
    decoder.decode(b"", final=True)


def parse_mode(value: object) -> Mode | None:
    """Return the update mode that --rssguard-update names. Raises SettingError."""
    if value is None:
        return None
    try:
        return Mode(str(value))
    except ValueError:
        raise SettingError(name="--rssguard-update", given=value, accepted=", ".join(mode.value for mode in Mode)) from None


def open_checkpoint(config: pytest.Config) -> Checkpoint | None:
    """Return the gate of this run, its baseline not yet read; None where none is asked for. Raises SettingError."""
    mode = parse_mode(config.getoption("rssguard_update"))
    found = baseline_folder(config)
    if found is None:
        for name, given in (("update", mode), ("candidate", config.getoption("rssguard_candidate"))):
            if given is not None:
                raise SettingError(
                    name=f"--rssguard-{name}", given=str(given), accepted="--rssguard-baseline=DIR beside it",
                    advice="name the folder of the committed baselines",
                )  # fmt: skip
        return None
    folder, given = found
    if folder.exists() and not folder.is_dir():
        raise SettingError(name="--rssguard-baseline", given=given, accepted="a folder")
    place = Place(folder=folder, given=given, key=environment()["key"])
    return Checkpoint(place, root=config.rootpath, mode=mode, today=datetime.now(UTC).date())
