"""The page about the Python interface, from its docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType

PAGE = Path("docs/api.md")
HEADER = "<!-- Written by `python -m stages.publish --pages` from the docstrings of {name}; edit those. -->"
SECTION = re.compile(r"^(Args|Returns|Raises):$", re.MULTILINE)
ENTRY = re.compile(r"^    (\w[\w, ]*): ", re.MULTILINE)
ARGUMENT = re.compile(r", (?=\w+: )")
WIDTH = 100
TITLES = {"Args": "Takes", "Returns": "Returns", "Raises": "Raises"}


def write_page(module: ModuleType) -> str:
    """The page: what the module says of itself, then every function and class that it offers."""
    parts = ["# From Python", HEADER.format(name=f"`{module.__name__}`"), inspect.getdoc(module) or ""]
    for name in sorted(module.__all__, key=str.lower):
        parts += ["## " + name, *_of(name, getattr(module, name))]
    return "\n\n".join(parts) + "\n"


def _of(name: str, thing: object) -> Iterator[str]:
    if inspect.isclass(thing):
        yield _described(thing)
        members = [(key, member) for key, member in vars(thing).items() if inspect.isfunction(member)]
        for key, member in members:
            if not key.startswith("_"):
                yield f"### {name}.{key}"
                yield from _of(key, member)
        return
    assert callable(thing)
    yield f"```\n{_signature(name, thing)}\n```"
    yield _described(thing)


def _signature(name: str, function: object) -> str:
    """The head of a function as its source has it, a line for each argument where one line is too long."""
    assert inspect.isfunction(function)
    (written,) = ast.parse(dedent(inspect.getsource(function))).body
    assert isinstance(written, ast.FunctionDef) and written.returns is not None
    given, result = ast.unparse(written.args), ast.unparse(written.returns)
    head = f"{name}({given.removeprefix('self').removeprefix(', ')}) -> {result}"
    if len(head) <= WIDTH:
        return head
    arguments = "".join(f"    {one},\n" for one in ARGUMENT.split(given))
    return f"{name}(\n{arguments}) -> {result}"


def _described(thing: object) -> str:
    """A docstring as Markdown: its sections as lists."""
    text = inspect.getdoc(thing) or ""
    lead, *sections = SECTION.split(text)
    said = [lead.strip()]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        entries = ENTRY.sub(r"\n\n\1: ", body) if title != "Returns" else body
        items = [" ".join(item.split()) for item in entries.split("\n\n") if item.strip()]
        listed = [re.sub(r"^(\w[\w, ]*): ", r"`\1`: ", item) if title != "Returns" else item for item in items]
        said.append(f"{TITLES[title]}:\n\n" + "\n".join(f"- {item}" for item in listed))
    return "\n\n".join(said)
