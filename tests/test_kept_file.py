from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_rssguard.kept_file import KeptFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "statm"
    path.write_text("100 10 1\n", encoding="ascii")
    return path


def _descriptors(path: Path) -> list[int]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            if link.readlink() == path:
                found.append(int(link.name))
        except OSError:  # the one that lists them
            continue
    return found


def test_each_reading_is_of_now_and_the_file_is_opened_once(path: Path) -> None:
    kept = KeptFile(str(path))
    assert _descriptors(path) == []
    assert kept.read() == b"100 10 1\n"
    (descriptor,) = _descriptors(path)
    path.write_text("100 11 1\n", encoding="ascii")
    assert kept.read() == b"100 11 1\n"
    assert kept.read(3) == b"100"
    assert _descriptors(path) == [descriptor]
    del kept
    assert _descriptors(path) == []


def test_a_file_that_was_closed_by_somebody_else_is_opened_again(path: Path) -> None:
    kept = KeptFile(str(path))
    kept.read()
    os.close(_descriptors(path)[0])
    assert kept.read() == b"100 10 1\n"
    os.close(_descriptors(path)[0])
    kept.close()
    kept.close()


def test_a_file_of_somebody_else_under_the_same_number_is_neither_read_nor_closed(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("7 7 7\n", encoding="ascii")
    kept = KeptFile(str(path))
    kept.read()
    (descriptor,) = _descriptors(path)
    foreign = os.open(other, os.O_RDONLY)
    os.dup2(foreign, descriptor)
    os.close(foreign)
    assert kept.read() == b"100 10 1\n"
    kept.close()
    assert _descriptors(path) == []
    assert _descriptors(other) == [descriptor]
    os.close(descriptor)


def test_a_fork_reads_its_own_process_and_leaves_its_parent_the_file() -> None:
    kept = KeptFile("/proc/self/stat")
    mine = kept.read()
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        os.write(writer, kept.read().split()[0])
        os._exit(0)
    os.waitpid(pid, 0)
    told = os.read(reader, 100)
    os.close(reader)
    os.close(writer)
    assert int(told) == pid
    assert mine.split()[0] == kept.read().split()[0] == str(os.getpid()).encode()


def test_a_file_that_is_not_there_raises_each_time(tmp_path: Path) -> None:
    kept = KeptFile(str(tmp_path / "nothing"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            kept.read()
    kept.close()
