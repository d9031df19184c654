"""Run the tests of the pure core and require that they take every branch of it.

The core is what import-linter keeps free of pytest, psutil, ctypes and subprocess, as pyproject.toml lists it.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parent.parent
project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
(core,) = (c for c in project["tool"]["importlinter"]["contracts"] if c["name"].startswith("the core"))
files = [name.replace(".", "/") for name in core["source_modules"]]
include = ",".join(f"{name}/*" if (root / name).is_dir() else f"{name}.py" for name in files)
coverage = [sys.executable, "-m", "coverage"]
for step in (
    ["erase"],
    ["run", "--branch", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "tests/core"],
    ["combine", "--quiet"],
    ["report", "--include", include, "--show-missing", "--skip-covered", "--fail-under=100"],
):
    subprocess.run([*coverage, *step], cwd=root, check=True)
