"""Output files: written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pytest_rssguard.errors import UnwritableError


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that no reader ever sees half of it. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".rssguard-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def append(path: Path, text: str) -> None:
    """Add `text` to the file at `path`, behind a blank line if anything stands there. Raises OSError."""
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n\n" if file.tell() else "") + text)


def try_to_write(path: Path) -> None:
    """Raise OSError if `path` could not be written now; leave nothing behind but a folder for it."""
    if path.is_dir():
        raise IsADirectoryError(None, "is a directory")
    path.parent.mkdir(parents=False, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".rssguard-")
    os.close(descriptor)
    Path(name).unlink()


def write_output(path: Path, text: str) -> None:
    """Write the output of a command, whole or not at all. Raises UnwritableError, one line."""
    try:
        write_whole(path, text)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UnwritableError(f"{path}: cannot be written ({why}); expected a file in a folder that exists") from None
