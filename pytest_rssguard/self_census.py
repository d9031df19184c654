"""Take the census of this very process: through a frozen copy, or in place where it cannot fork."""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from pytest_rssguard import census
from pytest_rssguard.allocators import glibc, pymalloc
from pytest_rssguard.errors import InconsistentMemoryError, UnreadableError
from pytest_rssguard.freeze import Freezer
from pytest_rssguard.image import Image
from pytest_rssguard.model import Census, MallocStats, Region
from pytest_rssguard.probe import LinuxProbe
from pytest_rssguard.slot import shared_buffer
from pytest_rssguard.smaps import parse_smaps

#: A census in place that does not close is taken again: a thread may have been inside malloc meanwhile. A frozen copy
#: stands still: read again it says the same.
_TRIES: Final = 5
#: Where Python's objects come from malloc, the few that the frozen copy makes after it has written its statistics down
#: are in its heap and not in them: 64 B were seen.
_PYTHON_IN_MALLOC: Final = 4096
#: Read in place, the walk itself makes and drops Python objects: 113 KiB were seen. Over this, somebody else allocates.
_IN_PLACE: Final = 256 << 10
#: No smaps text longer than a quarter of this is read: some 350,000 mappings, five times what a process may have.
_SMAPS_MOST: Final = 1 << 30


class SelfCensus:
    """Takes censuses of this process. Construct it before anything is measured."""

    def __init__(self, probe: LinuxProbe) -> None:
        self._probe = probe
        self._freezer = Freezer()
        #: Whether memory that a first census touches has been touched.
        self.ready = False
        self._note = shared_buffer(mmap.PAGESIZE)
        self._view = memoryview(self._note)

    def make_ready(self) -> None:
        """Touch what a first census touches most: its mappings are its largest objects, 50 KiB of Python's arenas."""
        self.ready = True
        with suppress(UnreadableError):
            read_regions(f"{self._probe.proc}/self/smaps")

    def take(self, *, draw: bool = False, ends: Mapping[int, int] | None = None) -> Census:
        """Return the census of now, with its heaps drawn if `draw`.

        `ends`: where its heaps ended at the baseline (heaps.Walker).
        Never raises for what it finds; `problems` says what did not close.
        """
        self.ready = True
        result = Census(problems=("no census was taken",))
        for _ in range(_TRIES):
            try:
                return self._through_copy(draw=draw, ends=ends)
            except UnreadableError as error:
                result = self._in_place(str(error), draw=draw, ends=ends)
            except InconsistentMemoryError as error:
                return Census(problems=(str(error),))
            if result.closes:
                break
        return result

    def _through_copy(self, *, draw: bool, ends: Mapping[int, int] | None) -> Census:
        probe = self._probe
        notes = []
        cached = -1
        if probe.malloc.active:
            probe.malloc.sort_free()
            cached = probe.malloc.settle_tcache()
            notes += probe.malloc.notes(self._view)
        if probe.pools.active:
            notes += probe.pools.notes()
        with self._freezer.frozen(notes) as pid, Image(pid, proc=probe.proc) as image:
            return self._take(image, read_regions(f"{probe.proc}/{pid}/smaps"), self._noted(cached), draw=draw, ends=ends)

    def _noted(self, cached: int) -> MallocStats | None:
        if not self._probe.malloc.active:
            return None
        words = memoryview(self._view[: 8 * glibc.WORDS].tobytes()).cast("Q")
        return replace(glibc.parse_mallinfo(words), tcache=None if cached < 0 else cached)

    def _take(
        self,
        image: Image,
        regions: Collection[Region],
        malloc: MallocStats | None,
        slack: int = 0,
        *,
        draw: bool,
        ends: Mapping[int, int] | None,
    ) -> Census:
        pools = self._probe.pools
        return census.take(
            image,
            regions,
            key=self._probe.malloc.key,
            malloc=malloc,
            pools=pymalloc.parse_pool_stats(pools.text()) if pools.active else None,
            pymalloc=pools.active,
            slack=slack or (_PYTHON_IN_MALLOC if pools.objects_in_malloc else 0),
            glibc=self._probe.malloc.active,
            draw=draw,
            ends=ends,
        )

    def _in_place(self, why: str, *, draw: bool, ends: Mapping[int, int] | None) -> Census:
        """Read this process while it runs: valid only if malloc stood still meanwhile, but for us."""
        probe = self._probe
        try:
            with Image("self", proc=probe.proc) as image:
                if probe.pools.active:
                    probe.pools.write()
                before = probe.malloc.stats() if probe.malloc.active else None
                found = self._take(image, read_regions(f"{probe.proc}/self/smaps"), before, _IN_PLACE, draw=draw, ends=ends)
                after = probe.malloc.stats() if probe.malloc.active else None
        except (UnreadableError, InconsistentMemoryError) as error:
            return Census(problems=(f"{why}; {error}",))
        if before and after and abs(before.uordblks + before.hblkhd - after.uordblks - after.hblkhd) > _IN_PLACE:
            return replace(found, problems=(*found.problems, f"{why}; memory moved while it was read"))
        return found


def read_regions(path: str) -> deque[Region]:
    """Return the mappings in the smaps file at `path`, read into memory of our own. Raises UnreadableError."""
    size = 1 << 18
    try:
        while True:
            with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as buffer:
                done = _read_all(path, buffer)
                if done < size:
                    with memoryview(buffer) as view, view[:done] as text:
                        return deque(parse_smaps(text))
            size *= 4
            if size > _SMAPS_MOST:
                raise UnreadableError(f"{path}: more than {_SMAPS_MOST >> 22} MiB of text")
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}") from None


def _read_all(path: str, buffer: mmap.mmap) -> int:
    done = 0
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with memoryview(buffer) as view:
            while done < len(buffer):
                with view[done:] as rest:
                    got = os.preadv(fd, [rest], done)
                if not got:
                    break
                done += got
    finally:
        os.close(fd)
    return done
