"""What machine, interpreter and allocator a report was made on: facts that make numbers comparable."""

from __future__ import annotations

import mmap
import platform
import sys
from pathlib import Path
from typing import Any

from pytest_rssguard.allocators.glibc import libc_version
from pytest_rssguard.api import process_guard


def environment() -> dict[str, Any]:
    """Return the environment as the report's JSON has it. `key` names what decides memory: never the host or its CPU."""
    guard = process_guard()
    version = libc_version()
    libc = f"glibc{version[0]}.{version[1]}" if version else "libc"
    malloc, pools = guard.probe.malloc, guard.probe.pools
    objects = "pymalloc" if pools.active else "malloc" if pools.objects_in_malloc else "unknown"
    implementation = {"cpython": "cp", "pypy": "pp"}.get(sys.implementation.name, sys.implementation.name)
    python = f"{implementation}{sys.version_info[0]}{sys.version_info[1]}"
    allocator = objects if malloc.active else f"{objects}-foreign"
    return {
        "key": f"{sys.platform}-{platform.machine()}-{python}-{libc}-{allocator}",
        "python": platform.python_version(),
        "libc": f"glibc {version[0]}.{version[1]}" if version else platform.libc_ver()[0] or "unknown",
        "kernel": ".".join(platform.release().split(".")[:2]),
        "page_size": mmap.PAGESIZE,
        "thp": _huge_pages(),
        "allocators": [each.name for each in (pools, malloc) if each.active],
        "capabilities": {
            "smaps": not guard.blind,
            "census": not guard.blind and malloc.active,
            "malloc_stats": malloc.active,
        },
    }


def _huge_pages() -> str | None:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text.partition("[")[2].partition("]")[0] or None
