"""Tells whether a test is still the test that its baseline was taken of: a hash of its syntax tree. Pure.

Comments, layout and docstring do not count, and no `rss_returns` marker: a tolerance says nothing of what the test does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function of a file: its first line (that of its first decorator) and last, from 1, and its hash."""

    first: int
    last: int
    hash: str


def parse_functions(source: str) -> tuple[Function, ...]:
    """Return the functions in `source`; none where it is no Python."""
    try:
        return tuple(_functions(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()


def find_hash(functions: tuple[Function, ...], line: int) -> str:
    """Return the hash of the innermost function around `line`, or ""."""
    around = [each for each in functions if each.first <= line <= each.last]
    return max(around, key=lambda each: each.first).hash if around else ""


def _functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            yield Function(first=first, last=node.end_lineno or node.lineno, hash=_hash(node))


def _hash(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    kept = [each for each in map(ast.dump, node.decorator_list) if "attr='rss_returns'" not in each]
    parts = [type(node).__name__, ast.dump(node.args), *kept, *map(ast.dump, body)]
    return sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
