"""What this machine lets the guard measure: each capability, how it was probed, and what is lost without it."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from dataclasses import dataclass

from pytest_rssguard.api import process_guard
from pytest_rssguard.errors import InconsistentMemoryError, UnreadableError
from pytest_rssguard.freeze import Freezer
from pytest_rssguard.image import Image
from pytest_rssguard.probe import LinuxProbe
from pytest_rssguard.self_census import SelfCensus

_NO_VERDICT = "every verdict is `unmeasurable`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One thing that can be measured here, or not. `found` says what the probe saw, `lost` what goes without it."""

    name: str
    present: bool
    probed: str
    found: str = ""
    lost: str = ""


def probe_capabilities() -> tuple[Capability, ...]:
    """Try everything that a measurement needs, in this process. Never raises for what it finds."""
    guard = process_guard()
    probe = guard.probe
    return (
        *_files(probe),
        *_memory(),
        _copy(),
        *_allocators(probe),
        _census(probe, guard.blind),
        _other_process(),
    )


def can_divide(capabilities: tuple[Capability, ...]) -> bool:
    """Return whether freed heap memory can be divided here: whatever a census itself reads was readable.

    Not asked: whether the census closed. One that should and does not is wrong, not missing.
    """
    needed = {"smaps", "residency", "memory", "malloc"}
    return all(each.present for each in capabilities if each.name in needed)


def _files(probe: LinuxProbe) -> tuple[Capability, ...]:
    return (
        Capability(
            name="smaps", present=not probe.why_not, probed="read /proc/self/statm and /proc/self/smaps",
            found=probe.why_not, lost=f"RSS has no parts: {_NO_VERDICT}",
        ),
        Capability(
            name="smaps_rollup", present=probe.has_rollup, probed="read /proc/self/smaps_rollup",
            lost="statm is trusted unchecked; before Linux 6.12 it can be megabytes low with many threads",
        ),
    )  # fmt: skip


def _memory() -> tuple[Capability, ...]:
    """Look at two pages of which one was written: residency must tell them apart, and the written word must be read."""
    with mmap.mmap(-1, 2 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        pages[:8] = b"rssguard"
        start = _address(pages)
        told = read = False
        scan = True
        why = ""
        try:
            with Image("self") as image:
                told = image.resident(start, start + 2 * mmap.PAGESIZE) == mmap.PAGESIZE
                read = image.word(start) == int.from_bytes(b"rssguard", "little")
                scan = image.can_scan
        except (UnreadableError, InconsistentMemoryError) as error:
            why = str(error)
    lost = "freed heap memory is one sum (free_heap), not trimmable, pinned and so on"
    return (
        Capability(
            name="residency", present=told, probed="/proc/self/pagemap of two pages, one of them written",
            found=why or ("PAGEMAP_SCAN" if scan else "page by page: the kernel has no PAGEMAP_SCAN (Linux 6.7)"), lost=lost,
        ),
        Capability(
            name="memory", present=read, probed="/proc/self/mem at a word that was written before", found=why, lost=lost
        ),
    )  # fmt: skip


def _address(pages: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(pages))


def _copy() -> Capability:
    why = ""
    try:
        with Freezer().frozen([]) as pid, Image(pid):
            pass
    except (UnreadableError, InconsistentMemoryError, OSError) as error:
        why = str(error)
    return Capability(
        name="frozen copy", present=not why, probed="fork, and open the copy's mem and pagemap", found=why,
        lost="the census reads the running process: other threads that allocate meanwhile spoil it",
    )  # fmt: skip


def _allocators(probe: LinuxProbe) -> tuple[Capability, ...]:
    malloc, pools = probe.malloc, probe.pools
    version = f"glibc {malloc.version[0]}.{malloc.version[1]}" if malloc.version else "no glibc"
    in_malloc = pools.objects_in_malloc
    return (
        Capability(
            name="malloc", present=malloc.active, probed="malloc(50000) must move mallinfo2", found=malloc.why_not or version,
            lost=f"live and freed memory of C code look the same: {_NO_VERDICT}",
        ),
        Capability(
            name="tcache", present=malloc.key is not None, probed="the key that free() leaves in cached blocks",
            lost="blocks in threads' caches count as live, up to 235 KiB a thread",
        ),
        Capability(
            name="pymalloc", present=pools.active, probed="_PyObject_DebugMallocStats must print numbers", found=pools.why_not,
            lost="objects are measured as malloc's: no python_live, no pool_free" if in_malloc
            else f"live and freed objects look the same: {_NO_VERDICT}",
        ),
    )  # fmt: skip


def _census(probe: LinuxProbe, blind: str) -> Capability:
    problems: tuple[str, ...] = (blind,) if blind else ()
    if not problems:
        problems = SelfCensus(probe).take().problems
    return Capability(
        name="census", present=not problems, probed="walk all heaps and pools: sums must equal the allocators' own",
        found="; ".join(problems), lost="freed heap memory is not divided; a leak is proved by counters alone",
    )  # fmt: skip


def _other_process() -> Capability:
    why = ""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            with Image(child.pid), open(f"/proc/{child.pid}/smaps", "rb", buffering=0) as smaps:  # noqa: PTH123 - unbuffered
                why = "" if os.read(smaps.fileno(), 1) else "its smaps is empty"
        except (UnreadableError, OSError) as error:
            why = str(error)
        child.kill()
    return Capability(
        name="other processes", present=not why, probed="/proc/PID/mem, pagemap and smaps of a child", found=why,
        lost="`explain PID` and `rssguard.process` cannot look into another process",
    )  # fmt: skip
