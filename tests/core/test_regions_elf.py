from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rssguard.elf import bss_range
from pytest_rssguard.regions import is_anonymous, is_bare, is_shared_memory
from tests.builders import PAGE, region

EXEC, DYN = 2, 3
LOAD, NOTE = 1, 4


@pytest.mark.parametrize(
    ("path", "perms", "inode", "expected"),
    [
        ("", "rw-p", 0, (False, True, True)),
        ("[anon:arrow]", "rw-p", 0, (False, True, True)),
        ("[heap]", "rw-p", 0, (False, False, True)),
        ("[stack]", "rw-p", 0, (False, False, True)),
        ("[stack:12]", "rw-p", 0, (False, False, True)),
        ("[vdso]", "r-xp", 0, (False, False, False)),
        ("/usr/lib/libc.so.6", "r-xp", 9, (False, False, False)),
        ("/usr/lib/libc.so.6", "rw-p", 9, (False, False, False)),
        ("/data/table.bin", "rw-s", 9, (False, False, False)),
        ("/dev/shm/x", "rw-s", 9, (True, False, False)),  # noqa: S108 - a name, not a file
        ("/dev/shm/x", "rw-p", 9, (False, False, False)),  # noqa: S108 - a name, not a file
        ("/memfd:x (deleted)", "rw-s", 9, (True, False, False)),
        ("/SYSV00000000 (deleted)", "rw-s", 9, (True, False, False)),
        ("/dev/zero (deleted)", "rw-s", 9, (True, False, False)),
        ("[anon_shmem:pool]", "rw-s", 9, (True, False, False)),
        ("", "rw-s", 9, (True, False, False)),
        ("", "rw-p", 9, (False, False, False)),
    ],
)
def test_a_mapping_is_sorted_by_name_permissions_and_inode(
    path: str, perms: str, inode: int, expected: tuple[bool, bool, bool]
) -> None:
    each = region(0x1000, PAGE, path=path, perms=perms, inode=inode)
    assert (is_shared_memory(each), is_bare(each), is_anonymous(each)) == expected


def elf(*segments: tuple[int, int, int, int], kind: int = DYN, size: int = 56, count: int | None = None) -> bytes:
    """Return an ELF header with program headers of (type, address, file size, memory size)."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHH", kind, 62, 1, 0, 64, 0, 0, 64, size, len(segments) if count is None else count)
    head = head.ljust(64, b"\0")
    return head + b"".join(
        struct.pack("<IIQQQQQQ", type_, 6, 0, address, address, file_size, memory_size, PAGE)
        for type_, address, file_size, memory_size in segments
    )


def test_bss_starts_behind_the_last_page_of_the_file_and_ends_with_the_segment() -> None:
    header = elf((LOAD, 0, 0x2000, 0x2000), (NOTE, 0x40, 8, 8), (LOAD, 0x3010, 0x500, 0x4000))
    assert bss_range(header, 0x7F0000000000) == (0x7F0000004000, 0x7F0000008000)


def test_a_library_linked_at_an_address_is_moved_by_the_difference() -> None:
    header = elf((LOAD, 0x400000, 0x1000, 0x1000), (LOAD, 0x402000, 0x1000, 0x3000))
    assert bss_range(header, 0x7F0000000000) == (0x7F0000003000, 0x7F0000005000)


def test_a_program_that_is_not_relocatable_stands_where_it_was_linked() -> None:
    header = elf((LOAD, 0x400000, 0x1000, 0x3000), kind=EXEC)
    assert bss_range(header, 0x400000) == (0x401000, 0x403000)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x7fELF\x02\x01",
        b"#!/bin/sh\n".ljust(4096, b"\0"),
        b"\x7fELF\x01\x01".ljust(4096, b"\0"),
        elf(),
        elf((NOTE, 0, 8, 8)),
        elf((LOAD, 0, 0x1000, 0x1000)),
        elf((LOAD, 0, 0x100, 0x900)),
        elf((LOAD, 0, 0x1000, 0x3000), size=32),
        elf(count=5),
    ],
)
def test_a_file_without_bss_or_that_is_no_elf_has_no_range(header: bytes) -> None:
    assert bss_range(header, 0x7F0000000000) is None


def test_program_headers_beyond_the_first_page_are_left_out() -> None:
    header = elf((LOAD, 0, 0x1000, 0x3000), (LOAD, 0x8000, 0x1000, 0x9000))
    assert bss_range(header[:-1], 0x1000) == (0x2000, 0x4000)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda rest: b"\x7fELF\x02\x01" + rest)))
def test_random_bytes_have_a_range_or_none(header: bytes) -> None:
    found = bss_range(header, 0x7F0000000000)
    assert found is None or found[0] < found[1]
