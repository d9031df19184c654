"""(c) One test whose body leaks a few bytes a call, or its twin that does not."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import bodies

TOOL = os.environ["PEERS_TOOL"]
LEAK = os.environ["PEERS_LEAK"]
KEEP = not LEAK.startswith("clean")
KIND, _, SIZE = LEAK.removeprefix("clean_").partition("_")
CALL = partial(bodies.python, keep=KEEP) if KIND == "python" else partial(bodies.native, int(SIZE or 16), keep=KEEP)

if TOOL == "psleak":
    import psleak

    class TestLeak(psleak.MemoryLeakTestCase):
        """psleak decides itself how often it calls."""

        def test_leak(self) -> None:
            """Call."""
            self.execute(CALL)

else:

    def test_leak() -> None:
        """Call once for the guard, which repeats the body itself; 100 times for the tools that cannot."""
        for _ in range(1 if TOOL.startswith("rssguard") else 100):
            CALL()
