"""The program of the question, under `valgrind --tool=massif --pages-as-heap=yes` and read from outside by the census.

The C program makes 16,000 pairs of calloc(4186) and malloc(8), frees the big ones, says what it knows of itself
(mallinfo2, RSS, the size of [heap]) and waits. Natively its memory is then read through /proc, the program unmodified and
still running; `malloc_trim(0)` afterwards checks what was predicted. Prints Markdown: docs/massif.md has one such run.
Needs `cc` and valgrind; says so and stops with 0 where one is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pytest_rssguard import census
from pytest_rssguard.image import Image
from pytest_rssguard.model import Census
from pytest_rssguard.self_census import read_regions

_REPEATS: Final = 7
_PROGRAM: Final = r"""
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAIRS 16000
static void *big[PAIRS], *small[PAIRS];

static void say(const char *when)
{
    char line[512];
    long pages = 0, heap = 0;
    unsigned long from, to;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%*d %ld", &pages) != 1) pages = -1;
    if (file) fclose(file);
    file = fopen("/proc/self/maps", "r");
    while (file && fgets(line, sizeof line, file))
        if (strstr(line, "[heap]") && sscanf(line, "%lx-%lx", &from, &to) == 2) heap = to - from;
    if (file) fclose(file);
    struct mallinfo2 now = mallinfo2();
    printf("%s rss=%ld heap=%ld arena=%zu uordblks=%zu fordblks=%zu mmapped=%zu\n",
           when, pages * 4096, heap, now.arena, now.uordblks, now.fordblks, now.hblkhd);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    say("start");
    for (int i = 0; i < PAIRS; i++) {
        big[i] = calloc(1, 4186);
        memset(big[i], 1, 4186);
        small[i] = malloc(8);
        *(char *)small[i] = 1;
    }
    say("held");
    for (int i = 0; i < PAIRS; i++) free(big[i]);
    say("freed");
    if (argc > 1) return 0;
    getchar();
    malloc_trim(0);
    say("trimmed");
    getchar();
    return 0;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the program says of itself, in bytes."""

    rss: int
    heap: int
    arena: int
    uordblks: int
    fordblks: int
    mmapped: int


def parse_line(line: str) -> Said:
    """Return the numbers in one line of the program."""
    return Said(**{name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)})


def build(folder: Path) -> Path:
    """Compile the program, stripped; return its path."""
    source, program = folder / "pairs.c", folder / "pairs"
    source.write_text(_PROGRAM, encoding="ascii")
    subprocess.run(["cc", "-O1", "-s", "-fno-builtin", "-o", str(program), str(source)], check=True)  # noqa: S607 - the system's compiler
    return program


def timed(command: Sequence[str]) -> tuple[float, str]:
    """Run `command` to its end; return (seconds, its output)."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, done.stdout


@contextmanager
def waiting(program: Path) -> Iterator[tuple[subprocess.Popen[str], Said]]:
    """Start the program natively and wait until it has freed; yield it and what it says then."""
    with subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [_pipe(process.stdout).readline() for _ in range(3)]
            yield process, parse_line(lines[-1])
        finally:
            process.kill()


def read_from_outside(pid: int) -> tuple[float, Census]:
    """Take the census of another process; return (seconds, the census)."""
    started = time.perf_counter()
    with Image(pid) as image:
        regions = read_regions(f"/proc/{pid}/smaps")
        taken = census.take(image, regions, key=None, pymalloc=False)
    return time.perf_counter() - started, taken


def next_line(process: subprocess.Popen[str]) -> Said:
    """Let the program go on, and return what it says next."""
    _pipe(process.stdin).write("\n")
    _pipe(process.stdin).flush()
    return parse_line(_pipe(process.stdout).readline())


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("the program was started without pipes")
    return pipe


def parse_massif(text: str) -> dict[str, int]:
    """Return the bytes of the last snapshot with a tree, by what mapped them. The program has freed by then."""
    tree = [each for each in text.split("#-----------\nsnapshot=") if re.search(r"heap_tree=(peak|detailed)", each)][-1]
    callers = {
        "brk under malloc": r"brk \(",
        "mmap under malloc": r"sysmalloc_mmap_fallback\S* \(",
        "loader": r"_dl_map_object_from_fd \(",
    }
    found = {"all": int(re.findall(r"mem_heap_B=(\d+)", tree)[0])}
    for name, caller in callers.items():
        found[name] = sum(int(size) for size in re.findall(rf"^ *n\d+: (\d+) 0x[0-9A-F]+: {caller}", tree, re.MULTILINE))
    found["the rest"] = 2 * found["all"] - sum(found.values())
    return found


def run_massif(program: Path, folder: Path) -> tuple[float, str, str]:
    """Run under massif; return (seconds, the program's output, massif's)."""
    out = folder / "massif.out"
    command = [
        "valgrind",
        "--tool=massif",
        "--pages-as-heap=yes",
        "--threshold=0.1",
        "--detailed-freq=1",
        f"--massif-out-file={out}",
    ]
    seconds, said = timed([*command, str(program), "end"])
    return seconds, said, out.read_text(encoding="ascii", errors="replace")


def spread(values: Sequence[float]) -> str:
    """Return median and range of times, in milliseconds."""
    return f"{statistics.median(values) * 1e3:.1f} ms ({min(values) * 1e3:.1f} to {max(values) * 1e3:.1f})"


def main() -> None:
    """Print the comparison."""
    for tool in ("cc", "valgrind"):
        if shutil.which(tool) is None:
            print(f"skipped: there is no {tool} on this machine")
            return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(folder)
        native, under, outside = [], [], []
        for _ in range(_REPEATS):
            native.append(timed([str(program), "end"])[0])
            seconds, valgrind_said, massif = run_massif(program, folder)
            under.append(seconds)
        with waiting(program) as (process, said):
            for _ in range(_REPEATS):
                seconds, taken = read_from_outside(process.pid)
                outside.append(seconds)
            script = [sys.executable, __file__, str(process.pid)]
            whole = [timed(script)[0] for _ in range(_REPEATS)]
            after = next_line(process)
    emulated = parse_line(valgrind_said.splitlines()[-1])
    report(said, after, emulated, parse_massif(massif), taken)
    ratios = [slow / fast for slow, fast in zip(under, native, strict=True)]
    print("| run | time, median of 7 (least to most) |\n|---|---|")
    print(f"| native, alone | {spread(native)} |")
    print(f"| under massif | {spread(under)}: {statistics.median(ratios):.1f} x ({min(ratios):.1f} to {max(ratios):.1f}) |")
    print(f"| census from outside | {spread(outside)}, the program itself is not slowed |")
    print(f"| the same with the start of Python | {spread(whole)} |")


def report(said: Said, after: Said, emulated: Said, massif: Mapping[str, int], taken: Census) -> None:
    """Print what each says of the same program after it has freed, in bytes."""
    sums = {
        name: sum(getattr(heap, name) for heap in taken.heaps) for name in ("live", "tcache", "pinned", "trimmable", "free")
    }
    pins = ", ".join(f"{count:,} of {size} B" for size, count in sorted(taken.pins.items()))
    print(f"{os.uname().sysname} {os.uname().release}, {version('valgrind')}, {version('ldd')}\n")
    print("| after the frees | bytes |\n|---|---|")
    for name, size in (
        ("the program natively: RSS", said.rss), ("its [heap]", said.heap), ("its mallinfo2, in use", said.uordblks),
        ("its mallinfo2, free", said.fordblks), ("census: free in all", sums["free"]), ("census: live", sums["live"]),
        ("census: in the thread's cache", sums["tcache"]), ("census: pinned", sums["pinned"]),
        ("census: trimmable, as predicted", sums["trimmable"]), ("malloc_trim(0) gave back", said.rss - after.rss),
        ("under valgrind: RSS, valgrind's own included", emulated.rss), ("under valgrind: [heap]", emulated.heap),
        ("under valgrind: mallinfo2, free", emulated.fordblks), *((f"massif: {name}", size) for name, size in massif.items()),
    ):  # fmt: skip
        print(f"| {name} | {size:,} |")
    print(f"\nThe pages are pinned by live chunks: {pins}. Problems of the census: {list(taken.problems) or 'none'}.\n")


def version(tool: str) -> str:
    """Return the first line that `tool --version` prints."""
    return timed([tool, "--version"])[1].splitlines()[0]


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].isdigit():
        read_from_outside(int(sys.argv[1]))
    else:
        main()
