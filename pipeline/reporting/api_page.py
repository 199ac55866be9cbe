"""The page about the Python interface, from its docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

PAGE = Path("docs/api.md")
HEADER = "<!-- Written by `python -m stages.publish --pages` from the docstrings of {name}; edit those. -->"


def write_page(module: ModuleType) -> str:
    """The page: what the module says of itself, then every function and class that it offers."""
    parts = ["# From Python", HEADER.format(name=f"`{module.__name__}`"), inspect.getdoc(module) or ""]
    for name in sorted(module.__all__, key=str.lower):
        parts += [f"## {name}", *map(_head, _documented(getattr(module, name)))]
    return "\n\n".join(parts) + "\n"


def _documented(thing: Any) -> Iterator[Callable[..., Any]]:
    """What is public: it, and where it is a class, its methods."""
    yield thing
    if inspect.isclass(thing):
        yield from (one for name, one in vars(thing).items() if inspect.isfunction(one) and name[0] != "_")


def _head(thing: Callable[..., Any]) -> str:
    """The source to the end of the docstring."""
    source = dedent(inspect.getsource(thing))
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    lines = source.splitlines()[node.lineno - 1 : node.body[0].end_lineno]
    return "\n".join(["```py", *lines, "```"])
