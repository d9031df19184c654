"""Read another process: its mappings, its threads' stacks, and the census of its memory. It is left as it is.

Nothing is attached and nothing is loaded into it: everything comes from /proc/PID. What is read is one instant only if
the process did not run meanwhile. Either it is stopped for the read, or its threads' own records show that none ran
(/proc/PID/task/TID/status: state and context switches); else the reading is repeated, and where two readings never agree
the census says so and divides nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from pytest_rssguard import census
from pytest_rssguard.errors import ProcessError, UnreadableError
from pytest_rssguard.image import PAGE, Image
from pytest_rssguard.model import Census, MallocStats, PoolStats, Region, Snapshot
from pytest_rssguard.poolscan import ARENA
from pytest_rssguard.regions import has_known_pools, pythons
from pytest_rssguard.self_census import read_regions
from pytest_rssguard.smaps import parse_stack_pointer, parse_statm, parse_thread_state

#: A reading that the process ran through is taken again so often.
_TRIES: Final = 4
#: A process may be stopped in the middle of malloc, when its heap does not add up: then it is stopped again, so often.
_STOPS: Final = 8
#: What it gets between two tries, in seconds.
_PAUSE: Final = 0.002
#: How long to wait for a process to stop, in seconds: a thread that sleeps in the kernel without listening stops late.
_STOP_WAIT: Final = 5.0
#: PF_KTHREAD, include/linux/sched.h.
_KERNEL_THREAD: Final = 0x00200000
#: What a file of a thread is read up to, in bytes.
_SHORT: Final = 4096

#: Told (bytes read, bytes there are to read, number of the try).
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class _Thread:
    """What shows whether a thread ran: its state and how often it gave the processor up."""

    state: str
    switches: int


def read_process(
    pid: int, *, stop: bool = False, draw: bool = False, progress: Progress | None = None, proc: str = "/proc"
) -> tuple[Snapshot, Census]:
    """Return the state of process `pid` now, and its census. `ledger.totals` of the two sums to RSS, to the byte.

    `stop`: stop the process during the read and let it go on afterwards, unless it stood already. `draw`: draw its heaps.
    `progress` is told how far the reading is. The snapshot's `malloc` and `pools` are what the allocators
    would say, computed from the census; None where it does not close. Raises ProcessError: no such process, not
    permitted, ended meanwhile, a zombie, a kernel thread.
    """
    check(pid, proc=proc)
    earlier: tuple[Snapshot, Census] | None = None
    for number in range(1, (_STOPS if stop else _TRIES) + 1):
        with _stopped(pid, proc=proc) if stop else contextlib.nullcontext():
            try:
                before = _threads(pid, proc)
                found = _read_once(pid, draw=draw, proc=proc, progress=progress, number=number)
                after = _threads(pid, proc)
            except UnreadableError as error:
                raise _why(pid, proc, error) from None
        if not found[0].mappings:
            raise _why(pid, proc, UnreadableError("no mappings"))
        stood = before == after and not any(thread.state == "R" for thread in after.values())
        # stopped in the middle of malloc a heap may not add up: let it go on a little, and stop it again
        if found[1].closes and (stood or (earlier is not None and _agree(earlier, found))):
            return _counted(*found)
        earlier = found
        time.sleep(_PAUSE)
    check(pid, proc=proc)
    ran = f"process {pid} ran while it was read, and no two of {_TRIES} readings agree"
    return _refused(found, "" if stood else ran)


def check(pid: int, *, proc: str = "/proc") -> None:
    """Raise ProcessError, one clear line, if process `pid` cannot be read; the memory itself is only opened."""
    _state(pid, proc)
    for name in ("smaps", "mem", "pagemap"):
        try:
            os.close(os.open(f"{proc}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise _why(pid, proc, UnreadableError(f"{error.filename}: {error.strerror}"), name) from None


def _state(pid: int, proc: str) -> None:
    """Raise ProcessError if there is no process `pid`, or none that has memory."""
    text = _short(f"{proc}/{pid}/stat")
    if text is None:
        if proc == "/proc" and _exists(pid):
            raise ProcessError(pid, "belongs to another user, and /proc is mounted with hidepid: run as that user or as root")
        raise ProcessError(pid, "no such process")
    fields = text.rpartition(b")")[2].split()
    if fields[:1] in ([b"Z"], [b"X"]):
        raise ProcessError(pid, "is a zombie: it has ended, its memory is gone, only its parent has not waited for it")
    with contextlib.suppress(IndexError, ValueError):
        if int(fields[6]) & _KERNEL_THREAD:
            raise ProcessError(pid, "is a kernel thread: it has no memory of its own")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _why(pid: int, proc: str, error: UnreadableError, name: str = "") -> ProcessError:
    """Return why `pid` could not be read: what is known of it now says more than the error does."""
    try:
        _state(pid, proc)
    except ProcessError as found:
        gone = str(found).endswith("no such process")
        return ProcessError(pid, "ended while it was read") if gone and not name else found
    try:
        owner: int | None = os.stat(f"{proc}/{pid}").st_uid  # noqa: PTH116 - as everywhere here
    except OSError:
        owner = None
    if owner not in {None, os.geteuid()}:
        return ProcessError(pid, f"not permitted: it belongs to user {owner}; run as that user or as root")
    if name in {"mem", "pagemap"}:
        scope = (_short("/proc/sys/kernel/yama/ptrace_scope") or b"").strip()
        if scope not in {b"", b"0"}:
            return ProcessError(
                pid,
                f"not permitted: Yama (kernel.yama.ptrace_scope={scope.decode('ascii', 'replace')}) allows only a parent; "
                "run as root, start it from here, or set ptrace_scope to 0",
            )
    if name:
        return ProcessError(pid, f"not permitted ({error}): it runs with other rights or forbids it (prctl PR_SET_DUMPABLE)")
    if str(error) == "no mappings":
        return ProcessError(pid, "ended while it was read")
    return ProcessError(pid, str(error))


def _short(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, _SHORT)
    except OSError:
        return None
    finally:
        os.close(fd)


def read_name(pid: int, *, proc: str = "/proc") -> str:
    """Return the name of the process (comm, at most 15 bytes), "" if there is none. Control characters become "?"."""
    text = (_short(f"{proc}/{pid}/comm") or b"").rstrip(b"\n").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def read_statm(pid: int, *, proc: str = "/proc") -> int | None:
    """Return RSS in bytes as ps shows it, or None where it cannot be read any more."""
    text = _short(f"{proc}/{pid}/statm")
    try:
        return parse_statm(text, PAGE)[1] if text else None
    except UnreadableError:
        return None


def _tasks(pid: int, proc: str) -> list[str]:
    try:
        return os.listdir(f"{proc}/{pid}/task")  # noqa: PTH208 - names are all that is wanted
    except OSError as error:
        raise UnreadableError(f"{error.filename}: {error.strerror}") from None


def _threads(pid: int, proc: str) -> Mapping[str, _Thread]:
    """Return how each thread stands. One that ended meanwhile counts as running."""
    found = {}
    for task in _tasks(pid, proc):
        text = _short(f"{proc}/{pid}/task/{task}/status")
        found[task] = _Thread(*parse_thread_state(text)) if text else _Thread("R", 0)
    return found


def _read_once(pid: int, *, draw: bool, proc: str, progress: Progress | None, number: int) -> tuple[Snapshot, Census]:
    regions = read_regions(f"{proc}/{pid}/smaps")
    pointers, unknown, tasks = [], 0, _tasks(pid, proc)
    for task in tasks:
        pointer = parse_stack_pointer(_short(f"{proc}/{pid}/task/{task}/syscall") or b"")
        if pointer is None:
            unknown += 1
        else:
            pointers.append(pointer)
    total, done = sum(region.anonymous for region in regions), 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(min(done, total), total, number)

    with Image(pid, proc=proc, touch=False, progress=count) as image:
        known = all(map(has_known_pools, pythons(regions)))
        taken = census.take(image, regions, key=None, learn_key=True, draw=draw, pymalloc=known)
    return _snapshot(regions, pointers, threads=len(tasks), unknown=unknown), taken


def _snapshot(regions: deque[Region], pointers: list[int], *, threads: int, unknown: int) -> Snapshot:
    return Snapshot(
        rss=sum(region.rss for region in regions),
        vm_size=sum(region.size for region in regions),
        mappings=regions,
        stack_pointers=tuple(pointers),
        threads=threads,
        all_stacks_known=not unknown,
        unknown_stacks=unknown,
    )


def _agree(one: tuple[Snapshot, Census], other: tuple[Snapshot, Census]) -> bool:
    """Whether two readings show the same memory: the same mappings, heaps, pools and chunks."""
    return (
        one[1].closes
        and other[1].closes
        and deque(one[0].mappings) == deque(other[0].mappings)
        and replace(one[1], seconds=0) == replace(other[1], seconds=0)
    )


def _counted(snapshot: Snapshot, taken: Census) -> tuple[Snapshot, Census]:
    """Return the reading with what the allocators would say of themselves."""
    return replace(snapshot, malloc=malloc_stats(taken), pools=pool_stats(taken)), taken


def _refused(found: tuple[Snapshot, Census], why: str) -> tuple[Snapshot, Census]:
    """Return a reading that divides nothing: only what the kernel itself says is left of it."""
    snapshot, taken = found
    return snapshot, Census(bss=taken.bss, problems=(*((why,) if why else ()), *taken.problems), seconds=taken.seconds)


def malloc_stats(taken: Census) -> MallocStats | None:
    """Return what mallinfo2 would say in the process of this census, or None without a heap of glibc.

    `tcache` is that of all threads together, in bytes of chunks.
    """
    if not taken.heaps:
        return None
    arena = taken.arena
    free, fast = sum(heap.free for heap in taken.heaps), sum(heap.fast for heap in taken.heaps)
    return MallocStats(
        arena=arena, hblks=taken.chunks, hblkhd=taken.chunk_bytes, fsmblks=fast, uordblks=arena - free - fast,
        fordblks=free + fast, tcache=sum(heap.tcache for heap in taken.heaps),
    )  # fmt: skip


def pool_stats(taken: Census) -> PoolStats | None:
    """Return what pymalloc would say in the process of this census, or None where it has no pools."""
    pools = taken.pools
    if pools is None or not pools.arenas:
        return None
    return PoolStats(
        arenas=pools.arenas, arena_size=ARENA, used_pools=pools.used, unused_pools=pools.free, allocated=pools.live
    )


@contextmanager
def _stopped(pid: int, *, proc: str) -> Iterator[None]:
    """Stop the process, and let it go on however the block ends; one that stood already is left standing."""
    if pid == os.getpid():
        raise ProcessError(pid, "is this process: it cannot read itself while it is stopped; leave --stop out")
    if _all_stand(pid, proc):
        yield
        return
    try:  # an interrupt between the signal and the first line of the block must not leave it stopped
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            raise ProcessError(pid, "no such process") from None
        except PermissionError:
            raise ProcessError(pid, "not permitted to stop it; without --stop it is read while it runs") from None
        deadline = time.monotonic() + _STOP_WAIT
        while not _all_stand(pid, proc) and time.monotonic() < deadline:
            time.sleep(0.001)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


def _all_stand(pid: int, proc: str) -> bool:
    """Whether every thread is stopped, by a signal or by a tracer."""
    try:
        threads = _threads(pid, proc)
    except UnreadableError as error:
        raise _why(pid, proc, error) from None
    return all(thread.state in {"T", "t"} for thread in threads.values())
