"""What a module's source means, definition by definition, without how it is written.

Comments, docstrings, blank lines, formatting, annotations of functions, imports and the messages of exceptions are no
part of a definition's digest; everything else is. Beside the digest stands what the definition names, from which
`pipeline.provenance.closure` finds everything that a computation reaches.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeGuard

MODULE = "<module>"
"""The name of those statements of a module that define nothing: they run when it is imported."""
LENGTH = 16
"""Hexadecimal digits of a digest."""
OBJECT_PATH = re.compile(r"(?:[a-z_][a-z0-9_]*\.)+[a-z_][a-z0-9_]*:[A-Za-z_]\w*")
"""A string that names an object to be imported: 'package.module:object'."""
LONGEST_KEY = 60
"""Characters of a string that may be a key or the name of an attribute."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Definition:
    """A function, a class, a constant, or a member of one."""

    digest: str
    names: list[str]
    """What it names: `f`, `module.f`; `TABLE[]` where only entries of a table are taken."""
    attributes: list[str]
    """The attributes that it reads of anything."""
    strings: list[str]
    """Its string constants that may be keys."""
    kind: str = "constant"
    """`function`, `class`, `table` (a dictionary with string keys), `field` (annotated, of a class), or `constant`."""
    bases: list[str] = field(default_factory=list)
    """What a class derives from, as in `names`."""
    members: dict[str, Definition] = field(default_factory=dict)
    """Methods and fields of a class that are reached by name, entries of a table."""
    choice: str | None = None
    """The only value of a class's field without a default: where no setting has it, the class has no instance."""


@dataclass
class Module:
    """The summary of one module."""

    imports: dict[str, list[str]]
    """By local name, the modules ('a.b') and objects ('a.b:c') that it may stand for."""
    definitions: dict[str, Definition]


def summarise(source: str, name: str, is_package: bool) -> Module:
    """The summary of a module, from its text; relative imports start from its dotted name.

    Raises:
        SyntaxError: the text is not Python.
    """
    package = name if is_package else name.rpartition(".")[0]
    reader = _Reader(package)
    tree = ast.parse(source)
    definitions: dict[str, Definition] = {}
    rest: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.If) and _is_skipped(statement.test):
            reader.note_imports(statement)
            continue
        found = dict(reader.definitions(statement))
        if not found and not _is_silent(statement):
            rest.append(statement)
            found = dict.fromkeys(_stored(statement), _alias())
        definitions |= found
    definitions[MODULE] = reader.definition(rest)
    return Module(reader.imports, definitions)


def _alias() -> Definition:
    """A name that a module's loose statements give a value."""
    return Definition("", [MODULE], [], [])


def _is_skipped(test: ast.expr) -> bool:
    """Whether a block of a module is for type checkers, or for the module run as a program."""
    if isinstance(test, ast.Name):
        return test.id == "TYPE_CHECKING"
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _is_silent(statement: ast.stmt) -> bool:
    """Whether a statement does nothing that anybody computes with."""
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)] == ["__all__"]
    return isinstance(statement, ast.Pass | ast.Import | ast.ImportFrom) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _stored(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name


class _Reader:
    """Reads definitions, and the imports on the way."""

    def __init__(self, package: str) -> None:
        self.imports: dict[str, list[str]] = {}
        self._package = package

    def definitions(self, statement: ast.stmt) -> Iterator[tuple[str, Definition]]:
        """What a statement of a module defines, by name; nothing where it is not a plain definition."""
        self.note_imports(statement)
        if isinstance(statement, FUNCTIONS):
            yield statement.name, self.definition([statement], "function")
        elif isinstance(statement, ast.ClassDef):
            yield statement.name, self._class(statement)
        else:
            targets, value = _assigned(statement)
            for target in [] if _is_silent(statement) else targets:
                yield target, self._table(value) if _is_table(value) else self.definition([statement])

    def note_imports(self, statement: ast.AST) -> None:
        """Remember what a statement imports, at whatever depth."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                for item in node.names:
                    name = item.asname or item.name.partition(".")[0]
                    self._import(name, item.name if item.asname else name)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                for item in node.names:
                    self._import(item.asname or item.name, f"{base}:{item.name}")

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self._package.split(".")
        above = parts[: len(parts) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])

    def _import(self, name: str, target: str) -> None:
        targets = self.imports.setdefault(name, [])
        if target not in targets:
            targets.append(target)

    def definition(self, nodes: list[ast.stmt], kind: str = "constant") -> Definition:
        """Statements as one definition; of a class, annotations count."""
        scan = _Scan()
        for node in nodes:
            scan.read(node, in_class=kind == "field")
        made = scan.definition()
        made.kind = kind
        if kind == "field":  # its annotation may be a string
            made.names = sorted({*made.names, *(text for text in made.strings if text.isidentifier())})
        return made

    def _class(self, node: ast.ClassDef) -> Definition:
        """The head of a class, and its members apart from it."""
        is_dataclass = any("dataclass" in ast.dump(decorator) for decorator in node.decorator_list)
        head, members = _Scan(), dict[str, list[ast.stmt]]()
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            head.read(part)
        for statement in node.body:
            if isinstance(statement, FUNCTIONS):
                members.setdefault(statement.name, []).append(statement)
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and not is_dataclass:
                members.setdefault(statement.target.id, []).append(statement)
            elif not _is_silent(statement):
                head.read(statement, in_class=True)
        made = head.definition()
        made.kind = "class"
        made.bases = [_base(base) for base in node.bases]
        for name, statements in members.items():
            kind = "field" if isinstance(statements[0], ast.AnnAssign) else "function"
            made.members[name] = self.definition(statements, kind)
        made.choice = next((text for one in node.body if (text := _only_value(one))), None)
        return made

    def _table(self, value: ast.Dict) -> Definition:
        entries = {}
        for key, entry in zip(value.keys, value.values, strict=True):
            assert isinstance(key, ast.Constant)
            scan = _Scan()
            scan.read(entry)
            entries[str(key.value)] = scan.definition()
        return Definition("", [], [], [], kind="table", members=entries)


def _assigned(statement: ast.stmt) -> tuple[list[str], ast.expr | None]:
    """The names that an assignment gives a value, and the value; no names for any other statement."""
    if isinstance(statement, ast.Assign):
        names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        return (names if len(names) == len(statement.targets) else []), statement.value
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id], statement.value
    return [], None


def _only_value(statement: ast.stmt) -> str | None:
    """The string of `name: Literal["string"]`; None for any other statement."""
    if not isinstance(statement, ast.AnnAssign) or statement.value is not None:
        return None
    annotation = statement.annotation
    if not isinstance(annotation, ast.Subscript) or _dotted(annotation.value) != "Literal":
        return None
    value = annotation.slice.value if isinstance(annotation.slice, ast.Constant) else None
    return value if isinstance(value, str) else None


def _is_table(value: ast.expr | None) -> TypeGuard[ast.Dict]:
    return (
        isinstance(value, ast.Dict)
        and bool(value.keys)
        and all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in value.keys)
    )


def _base(node: ast.expr) -> str:
    """What a class derives from, as it is written, without what it is subscripted with."""
    return ast.unparse(node.value if isinstance(node, ast.Subscript) else node)


def _dotted(node: ast.expr) -> str | None:
    """`name` or `module.name`; None for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return None


class _Scan:
    """One definition: its canonical form, and what it names."""

    def __init__(self) -> None:
        self._tokens: list[str] = []
        self._names: dict[str, None] = {}
        self._attributes: dict[str, None] = {}
        self._strings: dict[str, None] = {}

    def definition(self) -> Definition:
        """What was read."""
        digest = hashlib.sha256("\0".join(self._tokens).encode()).hexdigest()[:LENGTH] if self._tokens else ""
        return Definition(digest, sorted(self._names), sorted(self._attributes), sorted(self._strings))

    def read(self, node: ast.AST, in_class: bool = False) -> None:
        """Add a node and all below it; among the statements of a class, the annotation of a field counts."""
        if isinstance(node, ast.stmt) and _is_silent(node):
            return
        kind = type(node).__name__
        special = getattr(self, f"_{kind.lower()}", None)
        self._tokens.append(kind)
        if special is not None:
            special(node)
        elif isinstance(node, ast.AnnAssign):
            self._children([node.target, *([node.annotation] if in_class else []), *filter(None, [node.value])])
        else:
            self._fields(node)
        self._tokens.append(")")

    def _fields(self, node: ast.AST, *left_out: str) -> None:
        for name in node._fields:
            if name in ("ctx", "kind", "type_comment", "type_params", "type_ignores", *left_out):
                continue
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                self.read(value)
            elif isinstance(value, list):
                self._children(value)
            elif value is not None:
                self._tokens.append(repr(value))

    def _children(self, values: list[object]) -> None:
        self._tokens.append("[")
        for value in values:
            if isinstance(value, ast.AST):
                self.read(value)
            else:
                self._tokens.append(repr(value))
        self._tokens.append("]")

    def _functiondef(self, node: ast.FunctionDef) -> None:
        self._fields(node, "returns")

    _asyncfunctiondef = _functiondef

    def _arg(self, node: ast.arg) -> None:
        self._tokens.append(node.arg)

    def _raise(self, node: ast.Raise) -> None:
        """Without the message, and what the exception comes from."""
        if node.exc is not None:
            self.read(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)

    def _name(self, node: ast.Name) -> None:
        self._tokens.append(node.id)
        self._names[node.id] = None

    def _attribute(self, node: ast.Attribute) -> None:
        self._tokens.append(node.attr)
        self._attributes[node.attr] = None
        if isinstance(node.value, ast.Name):
            self._tokens.append(node.value.id)
            self._names[f"{node.value.id}.{node.attr}"] = None
        else:
            self.read(node.value)

    def _subscript(self, node: ast.Subscript) -> None:
        self._table_of(node.value)
        self.read(node.slice)

    def _compare(self, node: ast.Compare) -> None:
        self.read(node.left)
        for operator, value in zip(node.ops, node.comparators, strict=True):
            self._tokens.append(type(operator).__name__)
            if isinstance(operator, ast.In | ast.NotIn):
                self._table_of(value)
            else:
                self.read(value)

    def _call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr == "get":
            self._tokens.append("get")
            self._table_of(function.value)
        else:
            self.read(function)
        self._children(list(chain(node.args, node.keywords)))

    def _table_of(self, node: ast.expr) -> None:
        """What is looked up in: of a table, only an entry is taken."""
        name = _dotted(node) if isinstance(node, ast.Name | ast.Attribute) else None
        if name is None:
            self.read(node)
            return
        self._tokens.append(name)
        self._names[f"{name}[]"] = None
        if "." in name:
            self._attributes[name.rpartition(".")[2]] = None

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, str) and OBJECT_PATH.fullmatch(value):
            self._names[value] = None
            self._tokens.append(value.rpartition(":")[2])  # where an object lies is no part of what it means
            return
        self._tokens.append(f"{type(value).__name__} {value!r}")
        if isinstance(value, str) and len(value) <= LONGEST_KEY:
            self._strings[value] = None
            if value.isidentifier():
                self._attributes[value] = None
