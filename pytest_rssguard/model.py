"""Every value that travels between the layers. All sizes are int bytes; None means "cannot say", 0 means zero."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Protocol


class Account(StrEnum):
    """The accounts that every byte of growth is booked on, in the order in which they are printed."""

    PYTHON_LIVE = "python_live"
    """Live blocks of pymalloc: Python objects of 512 bytes or less."""
    MALLOC_LIVE = "malloc_live"
    """Resident live memory of malloc: C code, and Python objects over 512 bytes."""
    MAPPED = "mapped"
    """Anonymous memory outside every known heap: mmap by the program or by a library."""
    STACK = "stack"
    """Stacks of live threads."""
    SHMEM = "shmem"
    """Shared memory: /dev/shm, memfd, System V, shared anonymous mappings."""
    TRIMMABLE = "trimmable"
    """Freed, in whole pages: malloc_trim(0) gives it back."""
    PINNED = "pinned"
    """Freed, on pages that also carry a live block: nothing can give it back."""
    FREE_HEAP = "free_heap"
    """Freed heap memory that is not divided further, where no census was taken."""
    ARENA_TOP = "arena_top"
    """Freed, in the top of a thread's arena: malloc_trim does not touch it."""
    POOL_FREE = "pool_free"
    """Freed, inside pymalloc arenas."""
    TCACHE = "tcache"
    """Freed, in a thread's own cache of small blocks."""
    LAZY_FREE = "lazy_free"
    """Freed with MADV_FREE, not yet taken back by the kernel."""
    FILE = "file"
    """Resident pages of mapped files."""
    UNEXPLAINED = "unexplained"
    """What no account above covers."""


HELD: Final = (Account.PYTHON_LIVE, Account.MALLOC_LIVE, Account.MAPPED, Account.STACK, Account.SHMEM)
RETAINED: Final = (
    Account.TRIMMABLE, Account.PINNED, Account.FREE_HEAP, Account.ARENA_TOP,
    Account.POOL_FREE, Account.TCACHE, Account.LAZY_FREE,
)  # fmt: skip
#: Where the heap is not divided by a census, these are unknown and FREE_HEAP carries their sum.
DIVIDED_BY_CENSUS: Final = (Account.TRIMMABLE, Account.PINNED, Account.ARENA_TOP, Account.TCACHE)


class Outcome(StrEnum):
    """What a measurement means."""

    RETURNED = "returned"
    RETAINED = "retained"
    LEAKED = "leaked"
    GREW = "grew"
    UNMEASURABLE = "unmeasurable"
    NOT_JUDGED = "not judged"


class Basis(StrEnum):
    """What a ledger rests on."""

    CENSUS = "census"
    COUNTERS = "counters"


class Retained(StrEnum):
    """What retained memory does to a test."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a measurement is judged against. `budget`: bytes that may stay retained, or None where the policy decides."""

    tolerance: int
    retained: Retained = Retained.FAIL
    budget: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome with its reason.

    `masked`: leaked although RSS is within the tolerance. `over_budget`: retained over a budget of its own rather than
    over the tolerance. `why`: one clause for outcomes that need one.
    """

    outcome: Outcome
    masked: bool = False
    over_budget: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One entry of /proc/PID/smaps: [start, end), and what is resident of it, in bytes."""

    start: int
    end: int
    perms: str
    offset: int
    inode: int
    path: str
    rss: int
    anonymous: int
    lazy_free: int
    huge: int

    @property
    def size(self) -> int:
        """Address space, in bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class MallocStats:
    """The fields of mallinfo2(3) that are used: bytes, and numbers of mmapped (hblks) and of free chunks (ordblks).

    `tcache`: bytes in the cache of the calling thread, None where unknown. `cut`: bytes that trims of ours have cut off the
    end of the main heap, and that it has not grown by again.
    """

    arena: int
    hblks: int
    hblkhd: int
    fsmblks: int
    uordblks: int
    fordblks: int
    ordblks: int = 0
    tcache: int | None = None
    cut: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What pymalloc says of itself (_PyObject_DebugMallocStats). `arenas` counts arenas, the rest is bytes or pools."""

    arenas: int
    arena_size: int
    used_pools: int
    unused_pools: int
    allocated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaTop:
    """The top chunk of one thread arena: `arena` is the address of its malloc_state."""

    arena: int
    top: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One decoded reading of a process. `malloc` and `pools` are None where that allocator cannot tell.

    `own`: bytes of shared memory that the guard itself has added since the baseline; `rss` is already without them.
    """

    rss: int
    own: int = 0
    vm_size: int
    mappings: Collection[Region] = ()
    malloc: MallocStats | None = None
    pools: PoolStats | None = None
    tops: tuple[ArenaTop, ...] = ()
    #: Live blocks by block size, pymalloc's: {bytes: blocks}.
    blocks: Mapping[int, int] = field(default_factory=dict)
    stack_pointers: tuple[int, ...] = ()
    threads: int = 1
    all_stacks_known: bool = True
    #: How many threads ran when they were asked where their stack is; None: nobody counted.
    unknown_stacks: int | None = None


class Kind(StrEnum):
    """What a range of anonymous memory turned out to be in a census."""

    ARENA = "pymalloc arena"
    CHUNK = "mmapped chunk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A range [start, end) of anonymous memory of one kind; `resident` bytes of it are in RSS."""

    kind: Kind
    start: int
    end: int
    resident: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heap:
    """What a walk over glibc's chunks found, in bytes unless named otherwise.

    `live`, `tcache`, `pinned`, `trimmable` and `arena_top` are resident; `untouched` is live memory that is not.
    `free` and `fast` are what the bins (tops included) and the fastbins hold, resident or not: the closing checks.
    `top_trimmable` is the part of `trimmable` at the end of the main heap: free() gives it back itself when it passes
    M_TRIM_THRESHOLD. `pins` maps the chunk size of live blocks on pinned pages to their number (sizes over 1040 are
    rounded up to a power of two and counted under it). `arena` is the address of the arena's bins, 0 where not told.
    `walked` is the address where its last chunk ends. `cells` draws the heap, where that was asked for: run-length coded
    as in record.HeapMap, `pages_per_cell` pages each.
    """

    start: int
    end: int
    main: bool
    arena: int = 0
    walked: int = 0
    live: int = 0
    live_blocks: int = 0
    untouched: int = 0
    #: Live memory, resident or not, beyond where the heap ended at the baseline, and what of it is untouched.
    new_live: int = 0
    new_untouched: int = 0
    tcache: int = 0
    free: int = 0
    fast: int = 0
    pinned: int = 0
    pinned_pages: int = 0
    trimmable: int = 0
    top_trimmable: int = 0
    arena_top: int = 0
    metadata: int = 0
    pins: Mapping[int, int] = field(default_factory=dict)
    cells: str = ""
    pages_per_cell: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """What a scan of pymalloc's pool headers found: bytes, and numbers of pools and live blocks."""

    resident: int = 0
    live: int = 0
    live_blocks: int = 0
    used: int = 0
    free: int = 0
    arenas: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """A page-exact classification of one process at one instant. `problems` is empty where every check closed."""

    heaps: tuple[Heap, ...] = ()
    pools: Pools | None = None
    pieces: tuple[Piece, ...] = ()
    chunks: int = 0
    chunk_bytes: int = 0
    chunk_resident: int = 0
    #: What the arenas have got from the kernel, in bytes (system_mem): mallinfo2's `arena`.
    arena: int = 0
    #: Resident bytes of parts of the main heap that lie in mappings of their own, outside [heap].
    beyond: int = 0
    #: Ranges of .bss, by address: anonymous to the kernel, but part of a mapped file.
    bss: tuple[tuple[int, int], ...] = ()
    malloc: MallocStats | None = None
    pool_stats: PoolStats | None = None
    problems: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def pins(self) -> dict[int, int]:
        """Live blocks on pinned pages, {chunk size: blocks}, over all heaps."""
        sizes: dict[int, int] = {}
        for heap in self.heaps:
            for size, count in heap.pins.items():
                sizes[size] = sizes.get(size, 0) + count
        return sizes

    @property
    def closes(self) -> bool:
        """Whether the walk agrees with the allocators' own counters."""
        return not self.problems

    @property
    def live_blocks(self) -> int:
        """Live blocks of malloc, those with a mapping of their own among them."""
        return sum(heap.live_blocks for heap in self.heaps) + self.chunks

    def slim(self) -> Census:
        """Return what sums need of it: nothing that takes more than 512 bytes, and so none of malloc's memory."""
        return replace(self, heaps=tuple(replace(heap, pins={}, cells="") for heap in self.heaps), pieces=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a verdict is made from: all the growth there is to see, in bytes."""

    growth: int
    #: Growth less what only refilled heap memory that our own trim of the baseline had emptied.
    growth_untrimmed: int
    accounts: Mapping[Account, int | None]
    #: Growth of the allocators' counters and of mapping sizes; None where a counter is missing.
    allocated: int | None
    #: The part of `allocated` that is mappings.
    allocated_mapped: int = 0
    #: How much more may be held than the accounts say (where no census could tell live from untouched).
    held_slack: int = 0
    #: Why that is not known better; "": the heap could not be walked.
    slack_why: str = ""
    #: Libraries with an allocator of their own, that keep freed memory in anonymous mappings.
    private_allocators: tuple[str, ...] = ()
    #: Why this process cannot be measured, or "".
    blind: str = ""


class Memory(Protocol):
    """The memory of a process as the walkers read it: 64-bit words, and what is resident."""

    def window(self, address: int, end: int) -> tuple[memoryview, int, int] | None:
        """Return resident words around `address` as (words, address of the first, end); None if not resident."""

    def word(self, address: int) -> int | None:
        """Return the 64-bit word at `address`, or None if its page is not resident."""

    def resident(self, start: int, end: int) -> int:
        """Return how many bytes of [start, end) are resident."""
