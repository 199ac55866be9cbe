"""Everything that a computation reaches, found from the source alone.

From the roots on, a definition reaches what it names, through imports, at whatever depth. Four things are reached only
where they can be asked for: a method or field of a class if its name is read as an attribute somewhere in what is
reached; an entry of a table that is only looked up in if its key is among the computation's strings; an object that is
named by a string ('package.module:object') if that string is reached; an extension that is found by its name
('package.*:OBJECT') if that string is reached and the settings name it. The fields of settings are left out, since
their checked values are part of a computation's identity; the classes that they lead to are not. Whatever this leaves
out cannot run; what it takes in too much costs a result that is made once more.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.provenance import source
from pipeline.provenance.source import LENGTH, MODULE, Definition, Module, summarise

FOUND_BY_NAME = re.compile(r"((?:[a-z_][a-z0-9_]*\.)+)\*:(\w+)")
"""A string that stands for the extensions of a package, as `pipeline.core.extensions.Family` has it."""
BY_NAME = {"importlib:import_module", "importlib.util:find_spec"}
INSTALLED = {"site-packages", "dist-packages"}
"""The folders that libraries are installed into."""
SETTINGS = "pydantic:BaseModel"
INERT = {
    SETTINGS,
    "abc:ABC",
    "abc:ABCMeta",
    "typing:Generic",
    "typing:Protocol",
    *(name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)),
}
"""Bases from outside that call nothing of a class but what has two underscores on each side. Of a class with any other
base from outside (a module, an optimizer, a tuple), everything counts as called."""


class Sources:
    """The modules of this project and of those packages that extend it, read once.

    Args:
        kept: A folder for summaries, so that another process need not parse anew; None: none are kept.
    """

    def __init__(self, packages: dict[str, Path], kept: Path | None = None) -> None:
        self.packages = dict(packages)
        """The top packages whose source counts, by name, with the folder or the only file of each."""
        self._kept = kept
        self._modules: dict[str, Module | None] = {}
        self._libraries: set[str] = set()

    def is_local(self, name: str) -> bool:
        """Whether a module is one whose source counts."""
        return name.partition(".")[0] in self.packages

    def add(self, name: str) -> None:
        """Count the top package of a module as well: an extension may be anywhere."""
        top = name.partition(".")[0]
        found = None if top in self.packages else find_spec(top)
        if found is None:
            return
        if found.submodule_search_locations:  # a package, with an __init__.py or without
            self.packages[top] = Path(next(iter(found.submodule_search_locations)))
        elif found.origin is not None:
            self.packages[top] = Path(found.origin)

    def add_own(self, top: str) -> bool:
        """Let a top package count that is not installed as a library is; whether it is one."""
        if top in self._libraries or not _is_own(top):
            self._libraries.add(top)
            return False
        self.add(top)
        return True

    def path(self, name: str) -> Path | None:
        """The file of a module; None where there is no such module."""
        top, *below = name.split(".")
        base = self.packages[top].joinpath(*below)
        if base.suffix == ".py" and not below:
            return base
        candidates = (base.with_name(f"{base.name}.py"), base / "__init__.py")
        return next((path for path in candidates if path.is_file()), None)

    def module(self, name: str) -> Module | None:
        """The summary of a module; None where there is no such module."""
        if name not in self._modules:
            path = self.path(name) if self.is_local(name) else None
            self._modules[name] = None if path is None else self._summary(name, path)
        return self._modules[name]

    def _summary(self, name: str, path: Path) -> Module:
        content = path.read_bytes()
        key = hashlib.sha256(_reader_digest().encode() + content).hexdigest()
        kept = None if self._kept is None else self._kept / f"{name}.json"
        known = None if kept is None else _read_summary(kept, key)
        if known is not None:
            return known
        made = summarise(content.decode(), name, path.name == "__init__.py")
        if kept is not None:
            _keep_summary(kept, key, made)
        return made


@cache
def _reader_digest() -> str:
    return hashlib.sha256(Path(source.__file__).read_bytes()).hexdigest() + f"{sys.version_info[:2]}"


SUMMARY = TypeAdapter(Module)


def _read_summary(path: Path, key: str) -> Module | None:
    try:
        found, _, content = path.read_text().partition("\n")
        return SUMMARY.validate_json(content) if found == key else None
    except (OSError, ValueError):
        return None


def _keep_summary(path: Path, key: str, module: Module) -> None:
    """Keep a summary for the next process; where that fails, the next process parses again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(f"{key}\n".encode() + SUMMARY.dump_json(module))
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)


@dataclass
class Closure:
    """What a computation reaches."""

    objects: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By 'module:object' or 'module:object.member', a digest of what is written there, and one of what the names in it
    stand for. What is empty is left out."""
    libraries: set[str] = field(default_factory=set)
    """Top packages from outside, the standard library's left out."""

    @property
    def modules(self) -> set[str]:
        """The modules that the objects are in."""
        return {name.partition(":")[0] for name in self.objects}


def closure(
    sources: Sources,
    roots: Iterable[str],
    strings: Iterable[str],
    cut: Iterable[str] = (),
    extensions: Iterable[str] = (),
) -> Closure:
    """Everything that `roots` reach.

    Args:
        roots: Objects, each as 'module:object'.
        strings: What the settings of the computation may choose entries of tables by.
        cut: Packages and modules that are not followed.
        extensions: The names of the extensions that the settings of the computation choose.
    """
    search = _Search(sources, set(strings), tuple(cut), sorted(extensions))
    for root in roots:
        search.reach(root)
    search.run()
    return search.found


class _Search:
    def __init__(self, sources: Sources, strings: set[str], cut: tuple[str, ...], extensions: list[str]) -> None:
        self.found = Closure()
        self._visited: set[str] = set()
        self._sources = sources
        self._strings = strings
        self._attributes = {text for text in strings if text.isidentifier()}
        self._cut = cut
        self._extensions = extensions
        self._holders: dict[str, tuple[Definition, set[str]]] = {}
        """Classes and tables that were reached, with the names of their members that were."""
        self._settings: set[str] = set()
        """The classes that hold settings."""
        self._waiting: list[tuple[str, Definition]] = []

    def run(self) -> None:
        """Follow what was reached until nothing more is."""
        while self._waiting:
            while self._waiting:
                self._follow(*self._waiting.pop())
            for name, (holder, reached) in list(self._holders.items()):
                for member in holder.members.keys() - reached:
                    if self._is_asked_for(holder, member):
                        reached.add(member)
                        self._waiting.append((f"{name}.{member}", holder.members[member]))

    def _is_asked_for(self, holder: Definition, member: str) -> bool:
        if holder.kind == "table":
            return member in self._strings
        if holder.choice is not None and holder.choice not in self._strings:
            return False
        return member in self._attributes or (member.startswith("__") and member.endswith("__"))

    def reach(self, target: str, entries_only: bool = False) -> None:
        """An object ('module:object') or a module, through any number of re-exports."""
        module_name, _, name = target.partition(":")
        if self._is_cut(module_name) or self._is_library(module_name):
            return
        module = self._sources.module(module_name)
        if module is None:
            return
        if f"{module_name}:{MODULE}" not in self._visited:
            self._note(f"{module_name}:{MODULE}", module.definitions[MODULE])
        if name and name in module.definitions:
            self._note(f"{module_name}:{name}", module.definitions[name], entries_only)
        elif further := self._imported(module_name, name):
            for one in further:
                self.reach(one, entries_only)
        elif name:
            self.reach(f"{module_name}.{name}")

    def _is_library(self, module_name: str) -> bool:
        """Whether a module is from outside, which is then noted."""
        top = module_name.partition(".")[0]
        if self._sources.is_local(module_name):
            return False
        if top in sys.stdlib_module_names:
            return True
        if self._sources.add_own(top):
            return False
        self.found.libraries.add(top)
        return True

    def _is_cut(self, module_name: str) -> bool:
        return any(module_name == one or module_name.startswith(f"{one}.") for one in self._cut)

    def _note(self, key: str, definition: Definition, entries_only: bool = False) -> None:
        known = self._holders.get(key)
        if known is not None and definition.kind == "table" and not entries_only:
            self._take_all(key, definition, known[1])
        if key in self._visited:
            return
        self._visited.add(key)
        self._waiting.append((key, definition))
        if definition.kind not in ("class", "table"):
            return
        reached: set[str] = set()
        self._holders[key] = definition, reached
        bases = self._outer_bases(key, definition) if definition.kind == "class" else set()
        if definition.kind == "class" and SETTINGS in bases:
            self._settings.add(key)
        if bases - INERT or (definition.kind == "table" and not entries_only):
            self._take_all(key, definition, reached)

    def _take_all(self, key: str, definition: Definition, reached: set[str]) -> None:
        for member in definition.members.keys() - reached:
            reached.add(member)
            self._waiting.append((f"{key}.{member}", definition.members[member]))

    def _outer_bases(self, key: str, definition: Definition) -> set[str]:
        """What a class derives from, at whatever depth, that is not of this project."""
        module_name, found = key.partition(":")[0], set()
        for base in definition.bases:
            for target in list(self._targets(module_name, base)) or [base]:
                local = self._resolved(target)
                found |= {target} if local is None else self._outer_bases(*local)
        return found

    def _resolved(self, target: str) -> tuple[str, Definition] | None:
        """The local definition behind a target; None for one from outside."""
        module_name, _, name = target.partition(":")
        module = self._sources.module(module_name)
        if module is None or not name:
            return None
        if name in module.definitions:
            return f"{module_name}:{name}", module.definitions[name]
        further = (self._resolved(one) for one in self._imported(module_name, name))
        return next((one for one in further if one is not None), None)

    def _imported(self, module_name: str, name: str) -> list[str]:
        """What a module imports under a name, but for a module that a package imports from itself."""
        module = self._sources.module(module_name)
        targets = [] if module is None else module.imports.get(name, [])
        return [target for target in targets if target != f"{module_name}:{name}"]

    def _targets(self, module_name: str, name: str) -> Iterator[str]:
        if ":" in name:
            yield name
            return
        first, _, attribute = name.partition(".")
        module = self._sources.module(module_name)
        assert module is not None
        if first in module.definitions:
            yield f"{module_name}:{first}"
            return
        for target in module.imports.get(first, []):
            names_module = ":" not in target or self._is_module(target)
            if attribute and names_module:
                yield f"{target.replace(':', '.')}:{attribute}"
            else:
                yield target

    def _is_module(self, target: str) -> bool:
        """Whether 'package:name' is a module of the package, and no object of its own."""
        package, _, name = target.partition(":")
        if not self._sources.is_local(package):
            return False
        module = self._sources.module(package)
        defines = module is not None and (name in module.definitions or bool(self._imported(package, name)))
        return not defines and self._sources.path(f"{package}.{name}") is not None

    def _follow(self, key: str, definition: Definition) -> None:
        """Take in one definition: what it means, and what it names."""
        module_name = key.partition(":")[0]
        if definition.kind == "field" and key.rpartition(".")[0] in self._settings:
            self._follow_types(module_name, definition, set())
            return
        self._strings.update(definition.strings)
        self._attributes.update(definition.attributes)
        meanings: list[str] = []
        self._note_imports_by_name(module_name, definition)
        self._reach_extensions(definition)
        for name in definition.names:
            entries_only = name.endswith("[]")
            for target in self._targets(module_name, name.removesuffix("[]")):
                self.reach(target, entries_only)
                meanings.append(f"{name}={self._meaning(target)}")
        if definition.digest or meanings:
            wiring = hashlib.sha256("\0".join(sorted(meanings)).encode()).hexdigest()[:LENGTH]
            self.found.objects[key] = definition.digest, wiring

    def _note_imports_by_name(self, module_name: str, definition: Definition) -> None:
        """Libraries whose names stand in strings, where something is imported by its name."""
        targets = [target for name in definition.names for target in self._targets(module_name, name)]
        if not BY_NAME.isdisjoint(targets):
            constants = [found[1] for target in targets if (found := self._resolved(target)) is not None]
            for text in {text for one in (definition, *constants) for text in one.strings if text.isidentifier()}:
                if not self._sources.is_local(text) and text not in sys.stdlib_module_names and _is_library(text):
                    self.found.libraries.add(text)

    def _reach_extensions(self, definition: Definition) -> None:
        """The extensions that the settings name, of the packages whose extensions a definition stands for."""
        for found in filter(None, map(FOUND_BY_NAME.fullmatch, definition.strings)):
            for name in self._extensions:
                module_name = name if "." in name else f"{found[1]}{name}"
                if "." in name:
                    self._sources.add(name)
                module = self._sources.module(module_name)
                if module is not None and found[2] in module.definitions:
                    self.reach(f"{module_name}:{found[2]}")

    def _follow_types(self, module_name: str, definition: Definition, seen: set[str]) -> None:
        """Reach the classes that an annotation leads to, through names for other annotations."""
        for name in definition.names:
            for target in self._targets(module_name, name.removesuffix("[]")):
                found = self._resolved(target)
                if found is None or found[0] in seen:
                    continue
                seen.add(found[0])
                if found[1].kind == "class":
                    self.reach(found[0])
                elif found[1].kind == "constant":
                    self._reach_extensions(found[1])
                    self._follow_types(found[0].partition(":")[0], found[1], seen)

    def _meaning(self, target: str) -> str:
        """What a name stands for, wherever it lies: two objects of one name are told apart by their source."""
        found = self._resolved(target)
        if found is not None:
            module_name, _, name = found[0].partition(":")
            return name if self._is_cut(module_name) else f"{name} {found[1].digest}"
        return "local" if self._sources.is_local(target.partition(":")[0]) else target


def _is_own(name: str) -> bool:
    """Whether the source of a top module lies elsewhere than where libraries are installed."""
    try:
        found = find_spec(name)
    except (ImportError, ValueError):
        return False
    places = [] if found is None else [*(found.submodule_search_locations or []), *filter(None, [found.origin])]
    return bool(places) and INSTALLED.isdisjoint(Path(places[0]).parts)


def _is_library(name: str) -> bool:
    """Whether a module of that name is installed; a folder that merely has the name is not one."""
    found = find_spec(name)
    return found is not None and found.origin is not None
