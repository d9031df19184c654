"""Memory-return assertions for pytest: was memory leaked, or freed and retained?

Everything is imported on first use: this package is loaded in every pytest run of everyone who has it installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_rssguard.api import measure, returns
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
    "returns",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562: the type is that of the attribute
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = {"measure": "api", "returns": "api", "Account": "model", "Outcome": "model"}.get(name, "failures")
    return getattr(import_module(f"{__name__}.{home}"), name)
