"""What is one file each and found by its name: a module of a package, or any other by its dotted path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticKnownError, core_schema

from pipeline.core.errors import did_you_mean

K = TypeVar("K", bound=BaseModel)
SHARED = "base"
"""The module of a package that is no extension, but what its extensions share."""
KEYS = ("name", "kind", "rule", "metric")
"""The keys of settings that name a module."""


@dataclass(frozen=True)
class Family(Generic[K]):
    """Classes of settings, one in each module of a package, of which a section of the file names one.

    As the annotation of a field (`Annotated[Base, FAMILY]`) it checks the section as the class that the section names.
    """

    what: str
    """How messages call one of them, for example 'attack'."""
    place: str
    """'package.*:CONSTANT': the package, and the constant that is the class in each of its modules."""
    kind: type[K]
    """What they derive from."""
    key: str = "name"
    """The key of the section that names one; among `KEYS`."""
    built_in: Mapping[str, type[K]] | None = None
    """The classes that come with this project, by name, where they are no modules of a package."""

    @property
    def package(self) -> str:
        """The package whose modules are found by their name alone."""
        return self.place.partition(".*:")[0]

    @property
    def constant(self) -> str:
        """The name of the class in each module."""
        return self.place.partition(".*:")[2]

    def names(self) -> list[str]:
        """The names of those that come with this project."""
        if self.built_in is not None:
            return sorted(self.built_in)
        found = iter_modules(import_module(self.package).__path__)
        return sorted(module.name for module in found if module.name != SHARED)

    def find(self, name: Any) -> type[K]:
        """The class that `name` stands for.

        Args:
            name: A module of the package, or the dotted path of any module.

        Raises:
            ValueError: there is no such module, it cannot be imported, or it has no such class; the message lists the
                valid names.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"{self.what} needs a '{self.key}'; {did_you_mean(str(name), self.names())}")
        if self.built_in is not None and name in self.built_in:
            return self.built_in[name]
        path = name if "." in name else f"{self.package}.{name}"
        if not _exists(path) or name == SHARED:
            raise ValueError(f"unknown {self.what} '{name}': {did_you_mean(name, self.names())}")
        found = getattr(_imported(path), self.constant, None)
        if not isinstance(found, type) or not issubclass(found, self.kind):
            raise ValueError(f"module '{path}' has no '{self.constant}' that is a subclass of {self.kind.__name__}")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise ValueError(f"'{self.constant}' of module '{path}' lacks {', '.join(missing)}")
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """How pydantic checks a field that is annotated with this family."""
        return core_schema.with_info_plain_validator_function(self.check)

    def check(self, given: Any, info: ValidationInfo) -> K:
        """A section of the file as the class that it names; mistakes are told at their own places in it."""
        if isinstance(given, self.kind):
            return given
        if not isinstance(given, dict):
            raise PydanticKnownError("dict_type")
        if given.get(self.key) is None:
            raise ValueError(f"needs a '{self.key}'")
        name = given[self.key]
        try:
            found = self.find(name)
        except ValueError as error:
            raise _mistakes(
                [{"type": "value_error", "loc": (self.key,), "input": name, "ctx": {"error": error}}]
            ) from None
        try:
            return found.model_validate(given, context=info.context)
        except ValidationError as error:
            within = error.errors(include_url=False)
            raise _mistakes([{**one, "loc": (name, *one["loc"])} for one in within]) from None


def _mistakes(found: list[Any]) -> ValidationError:
    """One error with all of them; the location begins with the name, as it does in pydantic's own tagged unions."""
    details: list[InitErrorDetails] = found
    return ValidationError.from_exception_data("settings", details)


def _exists(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except (ImportError, ValueError):  # no such package, a relative name
        return False


def _imported(path: str) -> Any:
    """A module; what is wrong in one of the user's own is told in one line."""
    try:
        return import_module(path)
    except Exception as error:
        if path.startswith("pipeline."):
            raise
        raise ValueError(f"module '{path}' cannot be imported: {type(error).__name__}: {error}") from error


def imported(path: str) -> Any:
    """The object 'package.module:object', which is imported when it is asked for."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def named_in(content: Any) -> Iterator[str]:
    """Everything in plain values that names a module."""
    if isinstance(content, Mapping):
        yield from (value for key, value in content.items() if key in KEYS and isinstance(value, str))
        for value in content.values():
            yield from named_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from named_in(value)
