"""Where an ELF file's zero-initialised data ends in memory.

Pure. Source: elf(5), Elf64_Ehdr and Elf64_Phdr. The kernel shows .bss as anonymous memory behind the file's mapping and
merges it with whatever anonymous memory follows: only the program headers tell where it ends.
"""

from __future__ import annotations

import struct

_PT_LOAD = 1
_ET_EXEC = 2
_PAGE = 4096


def bss_range(header: bytes, base: int) -> tuple[int, int] | None:
    """Return [start, end) of .bss, page-aligned, of the file whose first page is `header`, loaded at `base`.

    None: not a 64-bit little-endian ELF file, or without .bss.
    """
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
        return None
    kind = struct.unpack_from("<H", header, 16)[0]
    table, size, count = (
        struct.unpack_from("<Q", header, 32)[0], *struct.unpack_from("<HH", header, 54)
    )  # fmt: skip
    loads = []
    for index in range(count):
        at = table + index * size
        if size < 56 or at + 56 > len(header):
            break
        type_, _flags, _offset, address, _physical, file_size, memory_size, _align = struct.unpack_from("<IIQQQQQQ", header, at)
        if type_ == _PT_LOAD:
            loads.append((address, file_size, memory_size))
    if not loads:
        return None
    bias = 0 if kind == _ET_EXEC else base - (loads[0][0] & -_PAGE)
    address, file_size, memory_size = loads[-1]
    start = (bias + address + file_size + _PAGE - 1) & -_PAGE
    end = (bias + address + memory_size + _PAGE - 1) & -_PAGE
    return (start, end) if start < end else None
