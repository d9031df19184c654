"""Processes to read from outside: a C program that makes memory patterns on command, and Python children."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("patterns.c")


class Program:
    """A running copy of patterns.c."""

    def __init__(self, binary: Path) -> None:
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.pid = self.process.pid

    def ask(self, command: str) -> dict[str, int]:
        """Send one command and return the numbers of its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        fields = (field.split("=") for field in self.process.stdout.readline().split())
        return {name: int(value) for name, value in fields}

    def close(self) -> None:
        """Let the program end."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return patterns.c, compiled and stripped."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) on this machine")
    target = tmp_path_factory.mktemp("external") / "patterns"
    subprocess.run([compiler, "-O0", "-s", "-pthread", "-o", target, SOURCE], check=True)
    return target


@pytest.fixture(scope="session")
def static_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return patterns.c with the C library in it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) on this machine")
    target = tmp_path_factory.mktemp("external") / "static"
    done = subprocess.run(
        [compiler, "-O0", "-s", "-static", "-pthread", "-o", target, SOURCE], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no static C library on this machine")
    return target


@pytest.fixture
def start(binary: Path) -> Iterator[Callable[[], Program]]:
    """Return what starts a copy of the program; it ends with the test."""
    with ExitStack() as stack:

        def run() -> Program:
            program = Program(binary)
            stack.callback(program.close)
            program.ask("tell")  # what telling itself touches is resident from here on
            program.ask("tell")
            return program

        yield run
