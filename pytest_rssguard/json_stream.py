"""JSON objects read a piece at a time, so that a large file never needs a large block of memory. Pure.

The guarded process reads its baseline before the first test. A text of 128 KiB in one block would be freed again, and that
raises glibc's mmap threshold for the program under test (docs/design.md, "Nothing of ours"). So no piece here reaches 64 KiB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from pytest_rssguard.errors import UnreadableError

#: The longest single value that is read, and the longest piece that may come in, in characters of up to 4 bytes.
LARGEST_VALUE: Final = 12 << 10
PIECE: Final = 2 << 10
_BLANK: Final = " \t\n\r"


def _refuse(digits: str) -> int:
    raise ValueError(f"expected whole numbers only, got {digits[:40]}")


_DECODER: Final = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse)


class Scanner:
    """Reads one JSON text from its pieces. Every method raises UnreadableError where the text is not what it asks for."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._text = ""
        self._read = 0

    def members(self) -> Iterator[str]:
        """Yield the names in the object that begins here, each in its place: read its value before the next name."""
        self._expect("{")
        if self._peek() == "}":
            self._expect("}")
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise self._error("expected a name in quotes")
            self._expect(":")
            yield name
            if self._peek() == "}":
                self._expect("}")
                return
            self._expect(",")

    def value(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the next value."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text)
            except RecursionError:
                raise self._error("nested too deep") from None
            except ValueError as error:
                if len(self._text) <= LARGEST_VALUE and self._more():
                    continue
                if len(self._text) > LARGEST_VALUE:
                    raise self._error("no JSON, or a value too long") from None
                raise self._error(getattr(error, "msg", str(error))) from None
            if end == len(self._text) and len(self._text) <= LARGEST_VALUE and self._more():
                continue  # a number may go on in the next piece
            self._drop(end)
            return value

    def end(self) -> None:
        """Require that nothing follows."""
        if self._peek():
            raise self._error("expected the end")

    def _more(self) -> bool:
        piece = next(self._pieces, "")
        self._text += piece
        return bool(piece)

    def _drop(self, count: int) -> None:
        self._read += count
        self._text = self._text[count:]

    def _peek(self) -> str:
        """Return the next character that is not blank, "" at the end."""
        while True:
            self._drop(len(self._text) - len(self._text.lstrip(_BLANK)))
            if self._text or not self._more():
                return self._text[:1]

    def _expect(self, character: str) -> None:
        found = self._peek()
        if found != character:
            raise self._error(f"expected {character!r}, got {found!r}" if found else "it ends too early")
        self._drop(1)

    def _error(self, problem: str) -> UnreadableError:
        return UnreadableError(f"character {self._read + 1}: {problem}")
