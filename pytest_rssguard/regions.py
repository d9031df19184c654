"""Sort mappings into classes by what smaps shows of them: names, permissions, neighbours.

Pure. Source: Documentation/filesystems/proc.rst (pathname column), mm/shmem.c (names of shared anonymous memory).
"""

from __future__ import annotations

from pytest_rssguard.model import Region

_SHARED_NAMES = ("/dev/shm/", "/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage", "[anon_shmem:")  # noqa: S108 - names, not files


def is_shared_memory(region: Region) -> bool:
    """Whether the mapping is /dev/shm, memfd, System V or shared anonymous memory."""
    return region.perms.endswith("s") and (region.path.startswith(_SHARED_NAMES) or not region.path)


def is_bare(region: Region) -> bool:
    """Whether the mapping is private anonymous memory without a kernel name of its own."""
    return not region.inode and (not region.path or region.path.startswith("[anon:")) and region.perms.endswith("p")


def is_anonymous(region: Region) -> bool:
    """Whether the mapping is private anonymous memory: bare, the heap, or a stack."""
    return is_bare(region) or region.path.startswith(("[heap]", "[stack"))
