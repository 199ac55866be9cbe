"""Tables that print several suites side by side, as the papers do: `conf/printed.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from pipeline.config.reading import read_yaml, validate
from pipeline.config.tables import TableColumn
from pipeline.core.errors import RequestError
from pipeline.core.values import Location, Name, StrictModel, declared, mapping, unique, unless


def _check_override(value: str) -> str:
    """Refuse (ValueError) what a shell would take for its own: footnotes name the command that composes a suite."""
    fits = re.fullmatch(r"[A-Za-z0-9_.,:=@/+~\[\]-]+", value)
    return unless([] if fits else [f"expected an override of Hydra without blanks and quotes, got '{value}'"], value)


Override = Annotated[str, AfterValidator(_check_override)]


class PrintedSuite(StrictModel):
    """A suite that tables take numbers from."""

    label: str
    """Names it in the caption, where the suites differ."""
    compose: list[Override] = Field(min_length=1)
    """What `make suite` composes it from: 'suite=cifar10', then any other overrides."""

    @field_validator("compose")
    @classmethod
    def _names_a_suite(cls, value: list[str]) -> list[str]:
        named = [override for override in value if override.startswith("suite=")]
        return unless([] if len(named) == 1 else [f"expected one 'suite=name', got {len(named)}"], value)


SuiteName = Annotated[Name, declared("suite", "suites")]


class PrintedColumn(TableColumn):
    """One column, of any suite."""

    suite: SuiteName | None = None
    """Whose numbers; null: those of the group's suite."""


class PrintedGroup(StrictModel):
    """Columns below one heading."""

    label: str
    suite: SuiteName | None = None
    """Whose numbers its columns have, where they do not name suites of their own."""
    columns: list[PrintedColumn] | None = Field(default=None, min_length=1)
    """null: those of the table."""

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """Every column is of some suite."""
        columns = given.get("columns")
        named = isinstance(columns, list) and all(isinstance(one, dict) and one.get("suite") for one in columns)
        if given.get("suite") is None and not named:
            yield ("suite",), "is missing: name one, or one for each of the columns"


class PrintedTable(StrictModel):
    """One table as it is printed: groups of columns beside each other, methods below each other."""

    caption: str
    table: Name = "table1"
    """Which of the suites' own tables gives rows and columns where none are given here, and digits, marks, uncertainty
    and the papers' tables; those of the first suite count."""
    rows: Annotated[list[str], AfterValidator(unique)] = Field(default=[])
    """Methods; []: those of all suites, in their order. One that a suite lacks is a dash there."""
    columns: list[TableColumn] = Field(default=[])
    """The columns of each group without columns of its own; []: those of the suite's table."""
    groups: list[PrintedGroup] = Field(min_length=1)

    @property
    def suites(self) -> list[str]:
        """The names of all its suites, in order."""
        named = [
            suite
            for group in self.groups
            for suite in ([column.suite or group.suite for column in group.columns] if group.columns else [group.suite])
        ]
        return [suite for suite in dict.fromkeys(named) if suite is not None]


class PrintedTables(StrictModel):
    """The whole of `conf/printed.yaml`."""

    suites: dict[Name, PrintedSuite] = Field(min_length=1)
    tables: dict[Name, PrintedTable] = Field(min_length=1)


def load_printed(path: Path, overrides: Iterable[str] = ()) -> PrintedTables:
    """Read and check `conf/printed.yaml`; a table's methods and metrics are those of suites that are composed later.

    `overrides` of Hydra are added to those of every suite.

    Raises:
        RequestError: the file is missing, too large or not YAML, or it has mistakes; the message lists them.
    """
    try:
        added = [_check_override(override) for override in overrides]
    except ValueError as error:
        raise RequestError(str(error)) from None
    raw = read_yaml(path, "The project's own is conf/printed.yaml.")
    if not isinstance(raw, dict):
        raise RequestError(f"{path}: expected a mapping with 'suites' and 'tables', got {type(raw).__name__}")
    suites = mapping(raw, "suites")
    whole = raw | {"suites": {name: _extended(suite, added) for name, suite in suites.items()}} if suites else raw
    return validate(PrintedTables, whole, str(path), {"suites": list(map(str, suites))})


def _extended(suite: Any, overrides: list[str]) -> Any:
    """A suite of the file, composed with more; what is a mistake stays one."""
    if not isinstance(suite, dict) or not isinstance(suite.get("compose"), list):
        return suite
    return suite | {"compose": [*suite["compose"], *overrides]}
