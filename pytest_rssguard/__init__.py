"""Memory-return assertions for pytest, which say whether memory was leaked, or freed and retained.

Everything is imported on first use: this package is loaded in every pytest run of everyone who has it installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rssguard.version import VERSION

if TYPE_CHECKING:
    from pytest_rssguard.api import measure, process, returns
    from pytest_rssguard.failures import RssGuardWarning, RssLeak, RssNotReturned, RssRegression, RssRetained
    from pytest_rssguard.model import Account, Outcome

__all__ = [
    "Account",
    "Outcome",
    "RssGuardWarning",
    "RssLeak",
    "RssNotReturned",
    "RssRegression",
    "RssRetained",
    "measure",
    "process",
    "returns",
]
__version__ = VERSION


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562: the type is that of the attribute
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = {"measure": "api", "process": "api", "returns": "api", "Account": "model", "Outcome": "model"}.get(name, "failures")
    return getattr(import_module(f"{__name__}.{home}"), name)
