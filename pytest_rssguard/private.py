"""Find libraries that carry an allocator of their own.

Such a library (pyarrow and polars do) keeps freed memory in anonymous mappings that look just like a leaked mmap, and
exports no symbol of its allocator. It is recognised by the messages that the allocator would print, which stand in the
library's read-only data; a list of library names alone would miss the next one.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from pytest_rssguard.model import Region

_MESSAGES: Final = (
    (b"<jemalloc>: ", "jemalloc"), (b"mimalloc: error: ", "mimalloc"), (b"tcmalloc: large alloc", "tcmalloc"),
    (b"\xff Go buildinf:", "the Go runtime"),
)  # fmt: skip


def find_private_allocators(regions: Iterable[Region], *, interpreter_uses_mimalloc: bool) -> Iterator[str]:
    """Yield "library (allocator, …)" for each mapped library with an allocator of its own.

    CPython 3.13 and later contain mimalloc, in use or not: `interpreter_uses_mimalloc` says which.
    """
    seen: set[str] = set()
    for region in regions:
        path = region.path
        if "x" not in region.perms or not path.startswith("/") or path in seen:
            continue
        seen.add(path)
        name = path.rsplit("/", 1)[-1]
        of_python = path == sys.executable or name.startswith(("python", "libpython"))
        unused = "mimalloc" if of_python and not interpreter_uses_mimalloc else ""
        if found := [allocator for allocator in _allocators_in(path) if allocator != unused]:
            yield f"{name} ({', '.join(found)})"


def _allocators_in(path: str) -> Iterator[str]:
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:  # noqa: PTH123
            for message, allocator in _MESSAGES:
                if data.find(message) >= 0:
                    yield allocator
    except (OSError, ValueError):  # deleted, replaced or empty: nothing to learn there
        return
