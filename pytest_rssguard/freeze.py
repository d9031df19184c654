"""A frozen copy of this process: fork a child that executes nothing but a few C calls, and then only pauses.

glibc takes every arena lock around fork() (malloc/arena.c, __malloc_fork_lock_parent), so the copy's heaps are
consistent even while other threads allocate. The child never runs Python: the iterator below calls fork, then in the
child prctl, what the allocators want to write down, and pause for ever, all inside one C call of next(). It dies with
us (PR_SET_PDEATHSIG), answers no signal, and is always reaped.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat, starmap
from typing import Any, Final

from pytest_rssguard.errors import UnreadableError

_PR_SET_PDEATHSIG: Final = 1


class Freezer:
    """Makes frozen copies. Construct it before anything is measured: it resolves its C functions once."""

    def __init__(self) -> None:
        libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL: the GIL stays held, no other Python thread moves
        self._fork = libc["fork"]
        self._fork.restype = ctypes.c_int
        self._prctl = libc["prctl"]
        self._prctl.restype = None
        self._prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
        self._pause = libc["pause"]
        self._pause.restype = None
        self._write = libc["write"]
        self._write.restype = None
        self._write.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]

    @contextmanager
    def frozen(self, notes: Iterable[Iterator[Any]] = ()) -> Iterator[int]:
        """Yield the pid of a frozen copy. `notes`: iterators of C calls that answer None, made in the child first.

        Raises UnreadableError where the process cannot fork.
        """
        reader, writer = os.pipe()
        pid = 0
        try:
            steps = chain(
                starmap(self._fork, [()]),
                starmap(self._prctl, [(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)]),
                *notes,
                starmap(self._write, [(writer, b"f", 1)]),
                starmap(self._pause, repeat(())),
            )
            mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
            try:
                pid = next(filter(None, steps))  # the child's 0 and its None answers are filtered out: it never returns
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(writer)
            writer = -1
            if pid < 0:
                raise UnreadableError(f"fork: {os.strerror(ctypes.get_errno())}")
            if os.read(reader, 1) != b"f":
                raise UnreadableError("fork: the frozen copy died before it was read")
            yield pid
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
            if pid > 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):  # SIGCHLD ignored: the kernel has reaped it
                    os.waitpid(pid, 0)
