"""Tables that print several suites side by side, as the papers do: which suite fills which column, and their texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from pipeline.config import (
    Params,
    PrintedSuite,
    PrintedTable,
    PrintedTables,
    TableColumn,
    TableSettings,
)
from pipeline.config.metrics import unknown_metric
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.reporting.layout import (
    Cell,
    ColumnGroup,
    Layout,
    Texts,
    assemble,
    details,
    difference_caption,
    difference_cells,
    difference_details,
    number_cells,
    remarks,
)
from pipeline.reporting.results import beside_paper, fill
from pipeline.reporting.tables import csv_rows, write_layout
from pipeline.tracking import runs_of_other_protocols

COMMAND = "python -m stages.printed"


@dataclass(frozen=True)
class Column:
    """A column where it is printed."""

    group: str
    """Key of its group: its place, from 0."""
    key: str
    suite: str
    heading: str
    """The heading of its group."""
    settings: TableColumn


@dataclass(frozen=True)
class Part:
    """What one suite gives a printed table."""

    label: str
    params: Params
    table: TableSettings
    """The rows and columns that are the suite's."""
    results: pd.DataFrame
    """As `pipeline.reporting.results.fill` gives them; commands begin with the one that composes the suite."""


@dataclass(frozen=True)
class FilledTable:
    """A printed table with its numbers."""

    name: str
    caption: str
    labels: dict[str, str]
    """The labels of its rows, in order, by method."""
    columns: list[Column]
    parts: dict[str, Part]
    """By the name of the suite, in order of appearance."""

    @property
    def is_measured(self) -> bool:
        """Whether any cell has a number."""
        return any(not part.results["missing"].all() for part in self.parts.values())

    @property
    def settings(self) -> TableSettings:
        """How its numbers are printed."""
        return next(iter(self.parts.values())).table


def fill_printed(name: str, printed: PrintedTables, suites: Mapping[str, Params], runs: pd.DataFrame) -> FilledTable:
    """Fill printed table `name`.

    Args:
        name: A key of `printed.tables`.
        printed: The file.
        suites: What the suites of the table are composed to, by their names in the file.
        runs: As `finished_runs` gives them for the experiments of all these suites.

    Raises:
        RequestError: no suite has a row's method, or a suite lacks the table or a column's metric.
        PipelineError: as `finished_runs`, where a suite's table takes runs of other protocols.
    """
    settings = printed.tables[name]
    own = {suite: _own_table(name, settings, suite, suites[suite]) for suite in settings.suites}
    rows = settings.rows or list(dict.fromkeys(row for table in own.values() for row in table.rows))
    labels = {row: _label(name, row, suites, settings.suites) for row in rows}
    columns = list(_place(settings, own))
    parts = {}
    for suite, table in own.items():
        params = suites[suite]
        shown = table.model_copy(
            update={
                "rows": [row for row in rows if row in params.methods],
                "columns": _columns_of(suite, columns),
            }
        )
        _check_metrics(name, suite, params, shown)
        others = runs_of_other_protocols(params.experiments()) if table.other_protocols else None
        results = _with_commands(fill(params, shown, runs, others), printed.suites[suite])
        parts[suite] = Part(printed.suites[suite].label, params, shown, results)
    return FilledTable(name, settings.caption, labels, columns, parts)


def _own_table(name: str, settings: PrintedTable, suite: str, params: Params) -> TableSettings:
    if settings.table not in params.tables:
        known = did_you_mean(settings.table, list(params.tables))
        raise RequestError(f"printed table '{name}': suite '{suite}' has no table '{settings.table}': {known}")
    return params.tables[settings.table]


def _label(name: str, row: str, suites: Mapping[str, Params], wanted: list[str]) -> str:
    """That of the first suite that has the method."""
    known = {method: one.label for suite in reversed(wanted) for method, one in suites[suite].methods.items()}
    if row not in known:
        raise RequestError(f"printed table '{name}': unknown method '{row}': {did_you_mean(row, list(known))}")
    return known[row]


def _place(settings: PrintedTable, own: Mapping[str, TableSettings]) -> Iterator[Column]:
    """Every column of the table, from left to right."""
    for place, group in enumerate(settings.groups):
        columns = group.columns or settings.columns or own[str(group.suite)].columns
        for number, column in enumerate(columns):
            suite = getattr(column, "suite", None) or group.suite
            yield Column(str(place), f"{place}.{number}", str(suite), group.label, column)


def _columns_of(suite: str, columns: list[Column]) -> list[TableColumn]:
    """A suite's columns by the names that its part of the caption has for them."""
    found: dict[str, TableColumn] = {}
    for column in columns:
        shared = any(other.group == column.group and other.suite != column.suite for other in columns)
        # Below a heading that several suites share, the heading says what is measured, and the label on what.
        label = column.heading if shared else column.settings.label
        settings = TableColumn(metric=column.settings.metric, label=label, relative_to=column.settings.relative_to)
        if column.suite == suite:
            found.setdefault(settings.metric, settings)
    return list(found.values())


def _check_metrics(name: str, suite: str, params: Params, table: TableSettings) -> None:
    for column in table.columns:
        if problem := unknown_metric(column.metric, list(params.evaluation.attacks)):
            raise RequestError(f"printed table '{name}', suite '{suite}': {problem}")
        if column.relative_to is not None and column.relative_to not in params.methods:
            hint = did_you_mean(column.relative_to, list(params.methods))
            raise RequestError(f"printed table '{name}': suite '{suite}' has no method '{column.relative_to}': {hint}")


def _with_commands(results: pd.DataFrame, suite: PrintedSuite) -> pd.DataFrame:
    """Commands that compose the suite first; all cells without a number have one in common, which measures them all."""
    compose, missing = compose_command(suite), results["missing"]
    commands = results["command"].map(lambda command: f"{compose} && {command}" if command else "")
    stages = [stage for command in results["command"][missing] for stage in command.split()[2:]]
    measure = "make repro" if missing.all() else f"dvc repro {' '.join(dict.fromkeys(stages))}"
    return results.assign(command=commands.mask(missing, f"{compose} && {measure}"))


def compose_command(suite: PrintedSuite) -> str:
    """The command that makes params.yaml the suite's."""
    others = [override for override in suite.compose if not override.startswith("suite=")]
    (name,) = (override for override in suite.compose if override.startswith("suite="))
    return f"make suite SUITE={name.removeprefix('suite=')}" + (f' SET="{" ".join(others)}"' if others else "")


def write_printed(table: FilledTable, destination: Path) -> list[Path]:
    """Write a table to `destination` as `<name>.tex`, `.csv` and `.md`, and a measured one for which the papers have
    numbers as `<name>_minus_paper`, too; equal input gives equal bytes.

    Returns:
        The files.
    """
    results = _printed(table, {suite: part.results for suite, part in table.parts.items()})
    said = _said({part.label: details(part.params, part.table, part.results) for part in table.parts.values()})
    texts = Texts(table.name, table.caption, said, _remarks(table), table.labels)
    layout = _lay_out(table, texts, number_cells(table.settings, results), results)
    paths = write_layout(layout, csv_rows(table.labels, table.settings.digits, results), destination)
    return paths + (_write_difference(table, destination) if table.is_measured else [])


def _write_difference(table: FilledTable, destination: Path) -> list[Path]:
    beside = {suite: beside_paper(part.params, part.table, part.results) for suite, part in table.parts.items()}
    found = {suite: results for suite, results in beside.items() if results is not None}
    if not found:
        return []
    results = _printed(table, found)
    rows = {method: label for method, label in table.labels.items() if method in set(results["method"])}
    cells = difference_cells(table.settings, results)
    said = _said(
        {
            table.parts[suite].label: details(table.parts[suite].params, _of(table.parts[suite].table, shown), shown)
            for suite, shown in found.items()
        }
    )
    whole = len(cells) == len(rows) * results["column"].nunique()
    caption = difference_caption(table.caption, table.settings.paper, results)
    texts = Texts(f"{table.name}_minus_paper", caption, difference_details(said, whole), _remarks(table), rows)
    layout = _lay_out(table, texts, cells, results)
    return write_layout(layout, csv_rows(table.labels, table.settings.digits, results), destination)


def _of(table: TableSettings, results: pd.DataFrame) -> TableSettings:
    """The rows and columns of a suite that the papers have a number in; differences stand alone."""
    columns = [column for column in table.columns if column.metric in set(results["metric"])]
    rows = [row for row in table.rows if row in set(results["method"])]
    return table.model_copy(update={"columns": columns, "rows": rows, "uncertainty": "none"})


def _printed(table: FilledTable, results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The cells of several suites as `pipeline.reporting.layout.assemble` takes them, row by row."""
    frames = [
        results[column.suite][results[column.suite]["metric"] == column.settings.metric].assign(
            group=column.group, column=column.key, panel=column.heading, suite=column.suite
        )
        for column in table.columns
        if column.suite in results
    ]
    order = {method: place for place, method in enumerate(table.labels)}
    joined = pd.concat(frames, ignore_index=True)
    return joined.sort_values("method", key=lambda methods: methods.map(order), kind="stable", ignore_index=True)


def _lay_out(table: FilledTable, texts: Texts, cells: dict[tuple[str, str], Cell], results: pd.DataFrame) -> Layout:
    """Only columns that have results are printed."""
    groups: dict[str, ColumnGroup] = {}
    for column in table.columns:
        if column.key in set(results["column"]):
            group = groups.setdefault(column.group, ColumnGroup(column.group, column.heading, {}))
            group.columns[column.key] = column.settings.label
    return replace(assemble(texts, list(groups.values()), cells, results), command=COMMAND)


def _said(said: Mapping[str, Iterator[str]]) -> list[str]:
    """What the caption says: of each suite what it alone says, then what all say.

    Args:
        said: Sentences by the suite's label.
    """
    sentences = {label: list(own) for label, own in said.items()}
    everywhere = _common(sentences)
    alone = {label: [text for text in own if text not in everywhere] for label, own in sentences.items()}
    return [*(f"{label}: {'; '.join(own)}" for label, own in alone.items() if own), *everywhere]


def _remarks(table: FilledTable) -> list[str]:
    """What stands below the table: what holds for all suites, then what holds for one."""
    remarks_of = {part.label: list(remarks(part.params, part.table)) for part in table.parts.values()}
    everywhere = _common(remarks_of)
    alone = [f"{label}: {text}" for label, own in remarks_of.items() for text in own if text not in everywhere]
    return [*everywhere, *alone]


def _common(texts: Mapping[str, list[str]]) -> list[str]:
    first = next(iter(texts.values()))
    return [text for text in first if all(text in own for own in texts.values())]
