"""Find glibc's malloc_state by its shape, and read what the walk needs of it.

Pure: works on words. Source: glibc malloc/malloc.c, struct malloc_state, 2.26-2.43: {mutex, flags, have_fastchunks;
fastbinsY[10] (up to 2.42); top; last_remainder; bins[254]; binmap (two words); next; next_free; attached_threads;
system_mem; max_system_mem}. An empty bin points at itself, minus the two words before a list node: dozens of such
pairs in a row stand nowhere else, so no symbol and no offset of one version is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BINS: Final = 254
FASTBINS: Final = 10
#: Words of malloc_state behind the bins: binmap (2), next, next_free, attached_threads, system_mem, max_system_mem.
TAIL: Final = 7
#: A heap of a thread arena is aligned to this: HEAP_MAX_SIZE = 2 * DEFAULT_MMAP_THRESHOLD_MAX on 64 bits.
HEAP_MAX: Final = 64 << 20
#: So many of the 127 bins must be empty; each of the others must be a list head that points at chunks. A long test run
#: filled more than 103 of them.
_PROOF: Final = 2
#: User addresses end below this on x86-64 and aarch64 with 48-bit addresses.
_USER_END: Final = 1 << 48


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaState:
    """What one malloc_state says. Addresses and bytes; `bins` is the address of bins[0]."""

    bins: int
    top: int
    fastbins: tuple[int, ...]
    next: int
    system_mem: int
    end: int


def _matches(words: memoryview, base: int, at: int) -> int:
    """Return how many bins are empty if bins[0] is at index `at`; 0 where one of them can be no list head."""
    empty = 0
    for bin_ in range(at, at + BINS, 2):
        first, last = words[bin_], words[bin_ + 1]
        if first == base + 8 * bin_ - 16 == last:
            empty += 1
        elif not (0 < first < _USER_END and 0 < last < _USER_END) or first & 15 or last & 15:
            return 0
    return empty


def find_state(words: memoryview, base: int) -> ArenaState | None:
    """Return the malloc_state among 64-bit `words` that start at address `base`, or None if there is none."""
    best, best_at = _PROOF - 1, -1
    hits = [at for at in range(len(words) - 1) if words[at] == base + 8 * at - 16 == words[at + 1]]
    tried: set[int] = set()
    for hit in hits:
        # a self-pointing pair is one of 127 bins: the first is where the most neighbours agree
        for at in range(hit, max(hit - BINS, 1), -2):
            if at in tried or at + BINS + TAIL > len(words):
                continue
            tried.add(at)
            state = _plausible(words, base, at)
            matches = _matches(words, base, at) if state else 0
            if matches > best:
                best, best_at = matches, at
    return _plausible(words, base, best_at) if best_at > 0 else None


def _plausible(words: memoryview, base: int, at: int) -> ArenaState | None:
    """Return the state whose bins start at index `at`, if its sizes and pointers can be those of an arena."""
    if at < 2:
        return None
    tail = at + BINS + 2
    next_, attached, system_mem, max_system_mem = (
        words[tail],
        words[tail + 2],
        words[tail + 3],
        words[tail + 4],
    )
    top = words[at - 2]
    if not top or top & 15 or not next_ or next_ & 7 or attached > 1 << 20:
        return None
    # no whole pages where something else had moved the end of the heap first: a static program's own start-up does
    if not 0 < system_mem <= max_system_mem or system_mem & 15:
        return None
    fast = tuple(words[at - 2 - FASTBINS : at - 2]) if at >= 2 + FASTBINS else ()
    return ArenaState(
        bins=base + 8 * at,
        top=top,
        fastbins=fast,
        next=next_,
        system_mem=system_mem,
        end=base + 8 * (tail + 5),
    )


def first_chunk(state: ArenaState) -> int:
    """Return the address of the first chunk in the heap that holds `state`: right behind it, 16-byte aligned."""
    return (state.end + 15) & -16


def heap_header_size(words: memoryview) -> int:
    """Return the bytes of heap_info at the start of a thread heap: 48 with the page size field of 2.35, else 32."""
    return 48 if len(words) > 4 and words[4] in {4096, 16384, 65536, 1 << 21, 1 << 30} else 32
