"""The exceptions that tests see, and the warning. Failures of pytest's own kind, shown without a traceback.

Their `__module__` is "builtins" so that pytest's summary and JUnit say "RssLeak: …" and not a dotted path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:

    class _Failed(Exception):  # noqa: N818 - pytest's own name for it
        """What pytest.fail.Exception is: pytest binds it at run time, where type checkers do not see a class."""

        def __init__(self, msg: str | None = None, pytrace: bool = True) -> None: ...

else:
    _Failed = pytest.fail.Exception


class RssGuardWarning(UserWarning):
    """Retained memory where only held memory fails, or memory that cannot be measured."""

    __module__ = "pytest_rssguard"


class RssNotReturned(_Failed):
    """RSS did not come back after a guarded body. `result` has the numbers."""

    __module__ = "builtins"

    def __init__(self, text: str = "") -> None:
        super().__init__(text, pytrace=False)


class RssLeak(RssNotReturned):
    """The body still holds memory over the tolerance."""

    __module__ = "builtins"


class RssRetained(RssNotReturned):
    """The body freed its memory, but the allocator kept it resident."""

    __module__ = "builtins"


class RssRegression(RssNotReturned):
    """A test holds or retains more than its committed baseline allows."""

    __module__ = "builtins"
