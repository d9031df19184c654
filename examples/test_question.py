"""Everything was freed, and RSS stays where it was: a leak, or not.

A program allocates 16,000 pairs, 4,186 bytes and 8 bytes, and frees the big ones. About 66 MiB of its memory is free,
and RSS does not fall: on every page one 8-byte block is still in use, and a page goes back to the system whole or not
at all. That is no leak, and no call can undo it; freeing the small blocks too makes the pages returnable.

Each test asks a fresh process, so that what earlier tests left in the heap plays no part. To see the two full reports:
`python examples/test_question.py`.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

from pytest_rssguard import measure

PAIRS = 16_000
MIB = 1 << 20


class Pairs:
    """The program of the question: straight calls of the C library, as C code makes them."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self.malloc, self.calloc, self.free = libc.malloc, libc.calloc, libc.free
        self.malloc.argtypes, self.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        self.calloc.argtypes, self.calloc.restype = [ctypes.c_size_t, ctypes.c_size_t], ctypes.c_void_p
        self.free.argtypes, self.free.restype = [ctypes.c_void_p], None
        self.big = (ctypes.c_void_p * PAIRS)()
        self.small = (ctypes.c_void_p * PAIRS)()
        # an interpreter that has just started has small holes in its heap; use them up, or the 8-byte blocks go there
        self.filler = [self.malloc(8) for _ in range(20_000)]

    def allocate_and_free_the_big_ones(self) -> None:
        """Do what the question does."""
        for i in range(PAIRS):
            self.big[i] = self.calloc(1, 4186)
            ctypes.memset(ctypes.c_void_p(self.big[i]), 1, 4186)
            self.small[i] = self.malloc(8)
        for block in self.big:
            self.free(block)

    def free_the_small_ones(self) -> None:
        """Free the blocks that keep the pages, but for the last.

        free() gives back by itself what is free at the very end of the heap: the last block keeps it from doing so.
        """
        for block in self.small[:-1]:
            self.free(block)


def report(*, free_all: bool) -> dict[str, object]:
    """Run the program in this process and return the answer, sizes in bytes."""
    with measure():
        pass  # the first measurement loads what measuring needs: let that be in the heap before the program is
    pairs = Pairs()
    with measure() as m:
        pairs.allocate_and_free_the_big_ones()
        if free_all:
            pairs.free_the_small_ones()
    accounts = {account.value: size for account, size in m.ledger.items()}
    return {"outcome": m.outcome.value, "growth": m.growth, "held": m.held, "text": str(m), **accounts}


def ask(question: str) -> dict[str, object]:
    """Return the answer of a fresh process, and print its report: `pytest -rA` shows it."""
    done = subprocess.run(  # noqa: S603 - this interpreter runs this file
        [sys.executable, __file__, question], check=True, capture_output=True, text=True
    )
    answer: dict[str, object] = json.loads(done.stdout)
    print(answer["text"])  # noqa: T201 - the report is the point
    return answer


def size(answer: dict[str, object], name: str) -> int:
    """Return one number of the answer, in bytes."""
    value = answer[name]
    assert isinstance(value, int)
    return value


def test_freed_but_pinned() -> None:
    """The big blocks are free and cannot go back: 16,000 live blocks of 8 bytes hold their pages."""
    answer = ask("pinned")
    assert answer["outcome"] == "retained"
    assert size(answer, "growth") > 60 * MIB
    assert size(answer, "held") < MIB
    assert size(answer, "pinned") > 0.9 * size(answer, "growth")
    assert size(answer, "trimmable") < 4 * MIB
    text = " ".join(str(answer["text"]).split())
    assert "live blocks of 24 bytes or less hold" in text


def test_all_freed_is_trimmable() -> None:
    """With the small blocks freed too, what is still resident is whole free pages: malloc_trim(0) returns them."""
    answer = ask("all")
    assert answer["outcome"] == "retained"
    assert size(answer, "held") < MIB
    assert size(answer, "pinned") < MIB
    assert size(answer, "trimmable") > 0.9 * size(answer, "growth")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(report(free_all=sys.argv[1] == "all")))
    else:
        for question in ("pinned", "all"):
            ask(question)
