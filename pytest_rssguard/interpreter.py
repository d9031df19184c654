"""Bring CPython to rest before a reading: what it keeps of failures, garbage, and caches."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_LAST: Final = frozenset({"last_type", "last_value", "last_traceback", "last_exc"})


def drop_last_exception() -> None:
    """Forget the last failure that Python keeps for post-mortem debugging: it pins that test's locals.

    Measured: without this a failing test with 48 MiB of locals hides a 48 MiB leak of the next test completely.
    """
    if not _LAST.isdisjoint(vars(sys)):
        for name in _LAST & vars(sys).keys():
            delattr(sys, name)


def collect_garbage() -> None:
    """Collect until nothing is found, at most 10 times: a chain of __del__ needed 4 passes.

    What a test leaves is young. Found first, it does not make the full pass find it, and cause another one.
    """
    gc.collect(1)
    for _ in range(10):
        if not gc.collect():
            return


def collect_young(*, alone: bool) -> None:
    """Collect what the body can have left, at a cost that does not grow with the process: generations 0 and 1.

    A full collection also empties CPython's free lists of dicts, tuples and the like, and the baseline has made one:
    without that here, what a body took and gave back reads as 500-900 B live. So the survivors, all of them in the oldest
    generation now, are set aside for one full collection of nothing, where nobody can notice: no other thread
    (`alone`), and nothing frozen by the program.
    """
    gc.collect(1)
    if alone and not gc.get_freeze_count():
        gc.freeze()
        try:
            gc.collect()
        finally:
            gc.unfreeze()


@contextmanager
def set_aside() -> Iterator[None]:
    """Set all that the collector tracks aside, so that collections take no time. Only while none but our own code runs."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def clear_type_cache() -> None:
    """Empty the method cache (Objects/typeobject.c): it keeps the names that were looked up last alive.

    Measured: the first 100 or so TextIOWrappers leave one name of 64-80 B more each, as a leak of one object would.
    """
    clear = getattr(ctypes.pythonapi, "PyType_ClearCache", None)
    if clear is not None:
        clear()
