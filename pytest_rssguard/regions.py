"""Sort mappings into classes by what smaps shows of them: names, permissions, neighbours.

Pure. Source: Documentation/filesystems/proc.rst (pathname column), mm/shmem.c (names of shared anonymous memory).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pytest_rssguard.model import Region

_SHARED_NAMES = ("/dev/shm/", "/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage", "[anon_shmem:")  # noqa: S108 - names, not files

_PYTHON: Final = re.compile(r"/(?:lib)?python(\d{1,3})\.(\d{1,3})(t?)(?:\.so[.\d]*)?$")


def pythons(regions: Iterable[Region]) -> set[tuple[int, int, bool]]:
    """Return the CPythons that are mapped, by the names of their files: (major, minor, free-threaded)."""
    found = (_PYTHON.search(region.path) for region in regions if region.inode)
    return {(int(match[1]), int(match[2]), bool(match[3])) for match in found if match}


def has_known_pools(python: tuple[int, int, bool]) -> bool:
    """Whether this CPython keeps small objects in pools that poolscan can read: 3.10 to 3.15, with a GIL."""
    major, minor, threaded = python
    return (3, 10) <= (major, minor) <= (3, 15) and not threaded


def is_shared_memory(region: Region) -> bool:
    """Whether the mapping is /dev/shm, memfd, System V or shared anonymous memory."""
    return region.perms.endswith("s") and (region.path.startswith(_SHARED_NAMES) or not region.path)


def is_bare(region: Region) -> bool:
    """Whether the mapping is private anonymous memory without a kernel name of its own."""
    return not region.inode and (not region.path or region.path.startswith("[anon:")) and region.perms.endswith("p")


def is_anonymous(region: Region) -> bool:
    """Whether the mapping is private anonymous memory: bare, the heap, or a stack."""
    return is_bare(region) or region.path.startswith(("[heap]", "[stack"))
