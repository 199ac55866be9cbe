"""What a printed table says, before it is LaTeX or Markdown: numbers, marks, caption and footnotes.

Texts are plain here, except that `$...$` is math, as are `_{...}` and `^{...}`, and that backquotes enclose code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import pandas as pd

from pipeline.config import TRAINING_SECONDS, Params, TableColumn, TableSettings

Rank = Literal["", "best", "second"]
NORM_SYMBOLS = {"linf": r"\infty", "l2": "2"}


UNRANKED = (TRAINING_SECONDS, "ood_mce", "ood_mfp")
"""Metrics of which more is not better."""


@dataclass(frozen=True)
class Cell:
    """One number as it is printed."""

    value: str
    """Accuracy in percent with the table's digits; "" when missing."""
    std: str
    """Standard deviation over seeds with the table's digits; "" when there is none."""
    rank: Rank
    marks: str
    """Letters of its footnotes, separated by commas."""


@dataclass(frozen=True)
class Row:
    """One method."""

    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Layout:
    """A table with all its texts."""

    name: str
    title: str
    """The first sentence of the caption."""
    details: str
    """The rest of the caption."""
    header: list[str]
    """Labels of the columns after the first."""
    rows: list[Row]
    notes: dict[str, str]
    """Footnotes of cells by their letter, in order of appearance."""
    remarks: list[str]
    """Footnotes of the table as a whole."""


def lay_out(name: str, params: Params, results: pd.DataFrame) -> Layout:
    """Table `name` of `params`, filled with `results` (as `pipeline.reporting.results.collect` gives them)."""
    table = params.tables[name]
    places = {(row["method"], row["metric"]): row for _, row in results.iterrows()}
    letters: dict[str, str] = {}
    for result in places.values():
        for note in _cell_notes(result):
            letters.setdefault(note, _letter(len(letters)))
    accuracies = results[~results["metric"].isin(UNRANKED)]
    ranks = {metric: _ranks(column, table.digits) for metric, column in accuracies.groupby("metric")}

    def cell(method: str, metric: str) -> Cell:
        result = places[method, metric]
        return Cell(
            value=printed(result["mean"], table.digits),
            std=printed(result["std"], table.digits),
            rank=ranks.get(metric, {}).get(method, ""),
            marks=",".join(letters[note] for note in _cell_notes(result)),
        )

    return Layout(
        name=name,
        title=_sentence(table.caption),
        details=" ".join(_sentence(text) for text in _details(params, table, results)),
        header=[column.label for column in table.columns],
        rows=[
            Row(params.methods[method].label, [cell(method, column.metric) for column in table.columns])
            for method in table.rows
        ],
        notes={letter: note for note, letter in letters.items()},
        remarks=list(_remarks(params, table)),
    )


def printed(value: float, digits: int) -> str:
    """A number with `digits` decimals; "" for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _letter(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    prefix = _letter(number // 26 - 1) if number >= 26 else ""
    return prefix + chr(ord("a") + number % 26)


def _ranks(column: pd.DataFrame, digits: int) -> dict[str, Rank]:
    """Best and second best of a column as it is printed; ties share. One number alone is neither."""
    filled = column[~column["missing"]]
    values = {row["method"]: Decimal(printed(row["mean"], digits)) for _, row in filled.iterrows()}
    if len(values) < 2:
        return {}
    order = sorted(set(values.values()), reverse=True)
    names: tuple[Rank, ...] = ("best", "second")
    ranks = dict(zip(order, names, strict=False))
    return {method: ranks.get(value, "") for method, value in values.items()}


def _cell_notes(result: pd.Series) -> Iterator[str]:
    if result["missing"]:
        yield f"Not measured yet: `{result['command']}`."
    elif result["command"]:
        yield f"{result['seeds']} of {result['seeds_expected']} seeds; for the others: `{result['command']}`."
    if result["note"]:
        yield result["note"]


def _details(params: Params, table: TableSettings, results: pd.DataFrame) -> Iterator[str]:
    """Sentences of the caption: what was measured on what, how strong the attacks were, and over which seeds."""
    learners = [learner for row in table.rows for learner in params.methods[row].learners.values()]
    architectures = sorted({learner.architecture or params.model.architecture for learner in learners})
    networks = ", ".join(f"`{architecture}`" for architecture in architectures)
    yield f"Accuracy (%) of {networks} on test images of `{params.data.name}`{_image_counts(table, results)}"
    if budgets := _budgets(params, table):
        yield f"Attack budgets: {budgets}"
    seeds = ", ".join(map(str, params.seeds))
    yield rf"Mean $\pm$ sample standard deviation over seeds {seeds}" if len(params.seeds) > 1 else f"Seed {seeds}"
    yield f"Protocol: {params.protocol.replace('_', ' ')}"
    yield from (_time_remark(params, column) for column in table.columns if column.metric == TRAINING_SECONDS)
    yield params.description


def _time_remark(params: Params, column: TableColumn) -> str:
    reference = column.relative_to and params.methods[column.relative_to].label
    return f"{column.label}: of all training steps, " + (f"relative to {reference}" if reference else "in seconds")


def _image_counts(table: TableSettings, results: pd.DataFrame) -> str:
    """How many images each column rests on, for example ' ($n = 360$: Natural; $n = 120$: AA)'."""
    labels: dict[int, list[str]] = {}
    for column in table.columns:
        counts = results.loc[results["metric"] == column.metric, "images"].dropna()
        if len(counts):
            labels.setdefault(int(counts.max()), []).append(column.label)
    if not labels:
        return ""
    if len(labels) == 1:
        return f" ($n = {next(iter(labels))}$)"
    parts = [f"$n = {count}$: {', '.join(names)}" for count, names in labels.items()]
    return f" ({'; '.join(parts)})"


def _budgets(params: Params, table: TableSettings) -> str:
    """Radius of the attacks behind the columns by norm, and that of training where it differs."""
    metrics = [column.metric for column in table.columns]
    members = params.evaluation.union if {"union", "worst_case_union"} & set(metrics) else []
    attacks = [params.evaluation.attacks[name] for name in [*metrics, *members] if name in params.evaluation.attacks]
    radii: dict[str, list[float]] = {}
    for attack in attacks:
        radii.setdefault(attack.norm, []).append(attack.epsilon)
    parts = []
    for norm, tested in radii.items():
        shown = ", ".join(dict.fromkeys(map(radius, tested)))
        trained = {budget.epsilon for name, budget in params.threat_model.items() if name == norm} - set(tested)
        training = f" (training: ${radius(min(trained))}$)" if trained else ""
        parts.append(rf"$\ell_{NORM_SYMBOLS[norm]}$ $\epsilon = {shown}${training}")
    return "; ".join(parts)


def radius(epsilon: float) -> str:
    """As the field writes it: '8/255' where it is that, otherwise decimal."""
    levels = round(255 * epsilon)
    return f"{levels}/255" if levels % 255 and math.isclose(255 * epsilon, levels) else f"{epsilon:g}"


def _remarks(params: Params, table: TableSettings) -> Iterator[str]:
    labels = {column.metric: column.label for column in table.columns}
    members = ", ".join(labels.get(name, f"`{name}`") for name in params.evaluation.union)
    if "union" in labels:
        yield f"{labels['union']}: mean of {members}."
    if "worst_case_union" in labels:
        yield f"{labels['worst_case_union']}: images that are correct under each of {members}."
    if params.training.selection.split == "test":
        yield "The test images chose the checkpoint (`training.selection.split: test`): the numbers are optimistic."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
