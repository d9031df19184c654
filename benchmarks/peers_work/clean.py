"""(d) Ten bodies that keep nothing, many times each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bodies

RUNS = range(int(os.environ["PEERS_RUNS"]))

if os.environ["PEERS_TOOL"] == "psleak":
    import psleak

    @pytest.mark.parametrize("name", bodies.CLEAN)
    @pytest.mark.parametrize("run", RUNS)
    def test_clean(run: int, name: str) -> None:
        """Let psleak call the body until it is sure."""
        del run
        psleak.MemoryLeakTestCase().execute(bodies.CLEAN[name])

else:

    @pytest.mark.parametrize("name", bodies.CLEAN)
    @pytest.mark.parametrize("run", RUNS)
    def test_clean(run: int, name: str) -> None:
        """Call once."""
        del run
        bodies.CLEAN[name]()
