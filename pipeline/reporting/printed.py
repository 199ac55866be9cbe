"""Tables that print several suites side by side, as the papers do: which suite fills which column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pandas as pd

from pipeline.config import Params, PrintedSuite, PrintedTable, PrintedTables, TableColumn, TableSettings
from pipeline.config.metrics import unknown_metric
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.reporting.results import fill
from pipeline.reporting.tables import Column, FilledTable, Part
from pipeline.tracking import runs_of_other_protocols

COMMAND = "python -m stages.printed"


def fill_printed(
    name: str,
    printed: PrintedTables,
    suites: Mapping[str, Params],
    runs: pd.DataFrame,
    verdicts: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> FilledTable:
    """Fill printed table `name`.

    Args:
        name: A key of `printed.tables`.
        printed: The file.
        suites: What the suites of the table are composed to, by their names in the file.
        runs: As `finished_runs` gives them for the experiments of all these suites.
        verdicts: As `read_verdicts` gives them for `runs`.

    Raises:
        RequestError: no suite has a row's method, or a suite lacks the table or a column's metric.
        PipelineError: as `finished_runs`, where a suite's table takes runs of other protocols.
    """
    settings = printed.tables[name]
    own = {suite: _own_table(name, settings, suite, suites[suite]) for suite in settings.suites}
    rows = settings.rows or list(dict.fromkeys(row for table in own.values() for row in table.rows))
    labels = {row: _label(name, row, [suites[suite] for suite in own]) for row in rows}
    columns = list(_place(settings, own))
    parts = {}
    for suite, table in own.items():
        params = suites[suite]
        there = [row for row in rows if row in params.methods]
        shown = table.model_copy(update={"rows": there, "columns": _columns_of(suite, columns)})
        _check_columns(name, suite, params, shown)
        others = runs_of_other_protocols(params.experiments()) if table.other_protocols else None
        results = _with_commands(fill(params, shown, runs, others, verdicts), printed.suites[suite])
        parts[suite] = Part(printed.suites[suite].label, params, shown, results)
    first = next(iter(own.values()))
    return FilledTable(name, settings.caption, labels, columns, parts, first, COMMAND)


def _own_table(name: str, settings: PrintedTable, suite: str, params: Params) -> TableSettings:
    if settings.table not in params.tables:
        known = did_you_mean(settings.table, list(params.tables))
        raise RequestError(f"printed table '{name}': suite '{suite}' has no table '{settings.table}': {known}")
    return params.tables[settings.table]


def _label(name: str, row: str, suites: list[Params]) -> str:
    """That of the first suite that has the method."""
    known = {method: one.label for params in reversed(suites) for method, one in params.methods.items()}
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
    for column in (column for column in columns if column.suite == suite):
        shared = any(other.group == column.group and other.suite != suite for other in columns)
        # Below a heading that several suites share, the heading says what is measured, and the label on what.
        label = column.heading if shared else column.settings.label
        settings = TableColumn(metric=column.settings.metric, label=label, relative_to=column.settings.relative_to)
        found.setdefault(settings.metric, settings)
    return list(found.values())


def _check_columns(name: str, suite: str, params: Params, table: TableSettings) -> None:
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
