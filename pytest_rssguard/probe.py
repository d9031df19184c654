"""Take raw readings of this process into memory set aside for them, and decode them later.

A reading is bytes in buffers that were allocated and touched beforehand, in shared memory outside every heap: taking one
costs 0 KiB of RSS, while parsing smaps at once would cost 236-300 KiB (docs/evidence.md). Decoding comes after the last
reading. Nothing here judges.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from pytest_rssguard import arenas
from pytest_rssguard.allocators import glibc, pymalloc
from pytest_rssguard.errors import InconsistentMemoryError, UnreadableError
from pytest_rssguard.image import Image
from pytest_rssguard.kept_file import KeptFile
from pytest_rssguard.model import ArenaTop, PoolStats, Region, Snapshot
from pytest_rssguard.slot import (
    LENGTH,
    MOST_THREADS,
    MOST_TOPS,
    PAGE,
    RSS,
    SYSCALL,
    SYSCALL_AT,
    TEXT_AT,
    THREADS,
    TOP_TABLE,
    TOPS,
    UNKNOWN_STACKS,
    VM,
    Slot,
)
from pytest_rssguard.smaps import (
    parse_rollup,
    parse_smaps,
    parse_stack_pointer,
    parse_statm,
    parse_thread_count,
)

_NEWLINE: Final = ord("\n")


def _read_small(path: str, size: int = 400) -> bytes:
    """Return the start of a file. The default stays in pymalloc: a larger block would touch a page that was trimmed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


class LinuxProbe:
    """Reads this process through /proc and the C library. `why_not` is empty where it can; `proc` is for tests."""

    def __init__(self, *, proc: str = "/proc") -> None:
        self.proc = proc
        self.why_not = ""
        self.malloc = glibc.Glibc()
        self.pools = pymalloc.Pymalloc()
        self._task = f"{proc}/self/task"
        self._smaps = f"{proc}/self/smaps"
        self._statm = f"{proc}/self/statm"
        self._kept = KeptFile(self._statm)
        self._stat = f"{proc}/self/stat"
        self._rollup = f"{proc}/self/smaps_rollup"
        self.own_bytes = 0
        self._longest = 0  # smaps text that was read so far, in bytes
        self._bins = 0
        self._delta = 0
        self._exact_statm = True
        self.has_smaps = self._tells(self._smaps)
        self.has_rollup = self._tells(self._rollup, parse_rollup)
        for path, parse, why in (
            (self._statm, partial(parse_statm, page_size=PAGE), "this needs Linux's /proc"),
            (self._smaps, None, "without it RSS has no parts"),
            (self._stat, parse_thread_count, "without it threads are not known"),
        ):
            if not self._tells(path, parse):
                self.why_not = f"{path} cannot be read: {why}"
                return
        if self.malloc.active:
            self._find_main_arena()
        try:
            self._exact_statm = self._statm_is_exact()
        except UnreadableError as error:
            self.why_not = f"{self._statm} makes no sense ({error})"

    @staticmethod
    def _tells(path: str, parse: Callable[[bytes], object] | None = None) -> bool:
        """Whether the file at `path` is there and says something, that `parse` can read."""
        try:
            text = _read_small(path)
            if parse is not None:
                parse(text)
        except (OSError, UnreadableError):
            return False
        return bool(text)

    def _statm_is_exact(self) -> bool:
        """Whether statm agrees with smaps_rollup, as it must on 6.12.107 and later (get_mm_counter_sum)."""
        if not self.has_rollup:
            return True
        return all(self._statm_rss() == parse_rollup(_read_small(self._rollup)) for _ in range(3))

    def _statm_rss(self) -> int:
        return parse_statm(_read_small(self._statm), PAGE)[1]

    def rss(self) -> int:  # hot: allocates nothing that outlives the call
        """Return RSS in bytes, from the cheapest file that is exact here."""
        if self._exact_statm:
            return self._statm_rss()
        return parse_rollup(_read_small(self._rollup))

    def look(self) -> tuple[int, int]:  # hot: allocates nothing that outlives the call
        """Return (address space, RSS) in bytes, from the cheapest files that are exact here. Keeps one open."""
        size, rss = parse_statm(self._kept.read(), PAGE)
        return size, rss if self._exact_statm else parse_rollup(_read_small(self._rollup))

    def is_alone(self) -> bool:
        """Whether this process has one thread, and says so."""
        try:
            return parse_thread_count(_read_small(self._stat)) == 1
        except (OSError, UnreadableError):
            return False

    def _find_main_arena(self) -> None:
        """Find main_arena once: from it the tops of thread arenas are read at each reading, without malloc_info."""
        try:
            with (
                open(self._smaps.replace("smaps", "maps"), "rb", buffering=0) as maps,  # noqa: PTH123 - as in glibc.py
                Image("self") as image,
            ):
                rest = b""
                while chunk := maps.read(4096):
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        fields = line.split()
                        if len(fields) > 5 and fields[1] == b"rw-p" and b"/libc" in fields[5]:
                            start, end = (int(part, 16) for part in fields[0].split(b"-"))
                            view = image.window(start, end)
                            state = arenas.find_state(view[0][: (view[2] - view[1]) >> 3], view[1]) if view else None
                            if state is not None:
                                self._learn_offset(image, state)
                                return
        except (OSError, UnreadableError, InconsistentMemoryError):
            return

    def _learn_offset(self, image: Image, state: arenas.ArenaState) -> None:
        """Learn how far bins[0] is from the start of a malloc_state."""
        if 0 <= state.bins - state.next < 256:
            delta = state.bins - state.next
        else:
            page = state.next & -PAGE
            view = image.window(page, page + 2 * PAGE)
            other = arenas.find_state(view[0][: 2 * PAGE >> 3], view[1]) if view else None
            if other is None:
                return
            delta = other.bins - state.next
        self._bins, self._delta = state.bins, delta

    def new_slot(self) -> Slot:
        """Return a slot. Its pages are resident from now on: `own_bytes` says by how much RSS grew for it."""
        slot = Slot()
        self.own_bytes += slot.size
        return slot

    def prepare(self, slot: Slot) -> None:
        """Make sure that `slot` has room for twice the longest smaps so far, before anything is measured with it."""
        if not self._longest:
            self._read_smaps(slot)
        while 2 * self._longest > len(slot.smaps):
            self._grow(slot)

    def _grow(self, slot: Slot) -> None:
        self.own_bytes -= slot.size
        slot.grow()
        self.own_bytes += slot.size

    def _read_smaps(self, slot: Slot) -> int:  # hot: allocates nothing that outlives the call
        view, size = slot.smaps_view, len(slot.smaps)
        fd = os.open(self._smaps, os.O_RDONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < size:
                got = os.preadv(fd, [view[done:]], done)
                if not got:
                    break
                done += got
        finally:
            os.close(fd)
        slot.words[LENGTH] = done
        slot.words[RSS] = 0
        self._longest = max(self._longest, done)
        return done

    def read(self, slot: Slot) -> None:  # hot: allocates nothing that outlives the call
        """Take one reading into `slot`. Raises OSError where /proc stops answering."""
        words = slot.words
        words[VM] = parse_statm(_read_small(self._statm), PAGE)[0]
        if self.malloc.active:
            self.malloc.read_into(slot.mallinfo)
            self._read_tops(words)
        self._read_stacks(slot)
        self.read_pools(slot)
        # last: whatever the calls above touched is then in this reading, not in the next
        while self._read_smaps(slot) == len(slot.smaps):
            self._grow(slot)

    def read_pools(self, slot: Slot) -> None:  # hot: allocates nothing that outlives the call
        """Read what pymalloc says into `slot`, and leave the rest of it."""
        if self.pools.active:
            self.pools.write()
            self.pools.copy_to(slot.text)

    def _read_tops(self, words: memoryview) -> None:  # hot: allocates nothing that outlives the call
        words[TOPS] = 0
        if not self._bins:
            return
        peek = ctypes.c_uint64.from_address
        offset = 8 * (arenas.BINS + 2) + self._delta  # of `next` in malloc_state
        arena = peek(self._bins - self._delta + offset).value
        if 0 <= self._bins - arena < 256:
            return
        mem = os.open(f"{self.proc}/self/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            count = 0
            while not 0 <= self._bins - arena < 256 and count < MOST_TOPS:
                top = peek(arena + self._delta - 16).value
                try:  # another thread may give the heap back meanwhile: a read that fails, not a fault
                    size = int.from_bytes(os.pread(mem, 8, top + 8), "little") & -8
                except OSError:
                    size = 0
                at = TOP_TABLE + 3 * count
                words[at], words[at + 1], words[at + 2] = arena, top, size
                count += 1
                arena = peek(arena + offset).value
            words[TOPS] = count
        finally:
            os.close(mem)

    def _read_stacks(self, slot: Slot) -> None:  # hot: allocates nothing that outlives the call
        words = slot.words
        words[THREADS], words[UNKNOWN_STACKS] = parse_thread_count(_read_small(self._stat)), 0
        if words[THREADS] == 1:  # os.listdir takes a buffer of 32 KiB from malloc: only where it must
            return
        tasks = os.listdir(self._task)  # noqa: PTH208 - no Path on the hot path
        words[THREADS] = len(tasks)
        for index, task in enumerate(tasks[:MOST_THREADS]):
            at = SYSCALL_AT + index * SYSCALL
            slot.view[at] = 0
            try:
                fd = os.open(f"{self._task}/{task}/syscall", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                words[UNKNOWN_STACKS] += 1
                continue
            try:
                got = os.preadv(fd, [slot.view[at : at + SYSCALL - 1]], 0)
                slot.view[at + got] = 0
            except OSError:
                words[UNKNOWN_STACKS] += 1
            finally:
                os.close(fd)

    def judged_rss(self, slot: Slot) -> int:
        """Return RSS as the sum over the mappings in `slot`, in bytes."""
        if known := slot.words[RSS]:
            return int(known)
        text, end = slot.smaps, slot.length
        last = text[max(0, text.rfind(b"\n", 0, max(0, end - 1)) + 1) : end]
        whole = text.find(b"\nVmFlags:", 0, min(end, 4096)) < 0 or last.startswith(b"VmFlags:")
        if not whole or not last.endswith(b"\n"):  # every mapping ends with its VmFlags (fs/proc/task_mmu.c, show_smap)
            raise UnreadableError(f"smaps: the text is cut short after {end} bytes")
        total = 0
        at = text.find(b"\nRss:", 0, end)
        while at >= 0:
            stop = text.find(b" kB", at, end)
            if stop < 0:
                raise UnreadableError("smaps: the text ends inside a line")
            try:
                total += int(text[at + 5 : stop])
            except ValueError:
                raise UnreadableError(f"smaps: no size in {text[at : at + 40]!r}") from None
            at = text.find(b"\nRss:", stop, end)
        if not total:
            raise UnreadableError(f"smaps: no resident mapping in {end} bytes of text")
        slot.words[RSS] = total * 1024
        return total * 1024

    def heap_ends(self, slot: Slot) -> dict[int, int]:
        """Return where each heap ended at the reading in `slot`, by address; empty without [heap].

        The main heap's end is under 0, a thread heap's top under the address of the 64 MiB it is aligned to.
        """
        text, words = slot.smaps, slot.words
        name = text.rfind(b"[heap]\n", 0, slot.length)
        if name < 0:
            return {}
        line = text[text.rfind(b"\n", 0, name) + 1 : name]
        try:
            ends = {0: int(line.partition(b"-")[2].split()[0], 16)}
        except (IndexError, ValueError):
            raise UnreadableError(f"smaps: no mapping in line {line[:80]!r}") from None
        for at in range(TOP_TABLE, TOP_TABLE + 3 * words[TOPS], 3):
            ends[words[at + 1] & -arenas.HEAP_MAX] = words[at + 1]
        return ends

    def heap(self, slot: Slot) -> tuple[int, int]:
        """Return (address space, RSS) of [heap] in `slot`, in bytes."""
        text, end = slot.smaps, slot.length
        size = rss = 0
        name = text.find(b"[heap]\n", 0, end)
        while name >= 0:
            line = text[text.rfind(b"\n", 0, name) + 1 : name]
            at = text.find(b"\nRss:", name, end)
            try:
                first, last = (int(each, 16) for each in line.split(None, 1)[0].split(b"-"))
                size, rss = size + last - first, rss + 1024 * int(text[at + 5 : text.find(b" kB", at, end)])
            except (IndexError, ValueError):
                raise UnreadableError(f"smaps: no mapping in line {line[:80]!r}") from None
            name = text.find(b"[heap]\n", name + 1, end)
        return size, rss

    def counters(self, slot: Slot) -> Snapshot:
        """Decode the counters of `slot`, not its mappings: cheap."""
        return Snapshot(
            rss=self.judged_rss(slot),
            vm_size=slot.words[VM],
            malloc=glibc.parse_mallinfo(slot.mallinfo) if self.malloc.active else None,
            pools=self._pool_stats(slot),
            threads=slot.words[THREADS],
        )

    def _pool_stats(self, slot: Slot) -> PoolStats | None:
        return pymalloc.parse_pool_stats(self._pool_text(slot)) if self.pools.active else None

    @staticmethod
    def _pool_text(slot: Slot) -> bytes:
        return slot.flat[TEXT_AT : max(TEXT_AT, slot.flat.find(b"\0", TEXT_AT))]

    def decode(self, slot: Slot) -> Snapshot:
        """Decode all of `slot`. Only after the last reading: this makes objects."""
        words = slot.words
        regions: deque[Region] = deque(parse_smaps(slot.smaps_view[: slot.length]))
        pointers = []
        unknown = words[UNKNOWN_STACKS]
        if words[THREADS] > 1:
            for index in range(min(words[THREADS], MOST_THREADS)):
                at = SYSCALL_AT + index * SYSCALL
                pointer = parse_stack_pointer(bytes(slot.view[at : at + SYSCALL]).split(b"\0")[0])
                if pointer is None:
                    unknown += 1
                else:
                    pointers.append(pointer)
        counters = self.counters(slot)
        return Snapshot(
            rss=counters.rss,
            vm_size=counters.vm_size,
            mappings=regions,
            malloc=counters.malloc,
            pools=counters.pools,
            tops=tuple(
                ArenaTop(arena=words[at], top=words[at + 1], size=words[at + 2])
                for at in range(TOP_TABLE, TOP_TABLE + 3 * words[TOPS], 3)
            ),
            blocks=pymalloc.parse_blocks(self._pool_text(slot)) if self.pools.active else {},
            stack_pointers=tuple(pointers),
            threads=words[THREADS],
            all_stacks_known=unknown <= 1,  # the reading thread itself reads as running
            unknown_stacks=max(0, unknown - 1),
        )
