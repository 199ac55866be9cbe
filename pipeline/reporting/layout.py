"""What a printed table says, before it is LaTeX or Markdown: numbers, marks, caption and footnotes.

Texts are plain here, except that `$...$` is math, as are `_{...}` and `^{...}`, and that backquotes enclose code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

import pandas as pd

from pipeline.config import TRAINING_SECONDS, Params, TableColumn, TableSettings
from pipeline.config.metrics import metric_named

Rank = Literal["", "best", "second"]
MOST_SHARING = 3
NORM_SYMBOLS = {"linf": r"\infty", "l2": "2", "l1": "1"}


@dataclass(frozen=True)
class Cell:
    """One number as it is printed."""

    value: str
    """With the table's digits; "" when missing."""
    std: str = ""
    """Standard deviation over seeds with the table's digits; "" when there is none."""
    interval: tuple[str, str] | None = None
    """Ends of the interval with the table's digits."""
    rank: Rank = ""
    marks: str = ""
    """Letters of its footnotes, separated by commas."""


@dataclass(frozen=True)
class Label:
    """The name of a row or column."""

    text: str
    marks: str = ""
    """Letters of footnotes on all its numbers, separated by commas."""


@dataclass(frozen=True)
class Heading:
    """What several columns next to each other have in common."""

    label: Label
    columns: int


@dataclass(frozen=True)
class Row:
    """One method."""

    label: Label
    cells: list[Cell]
    begins_group: bool = False
    """Whether it is set apart from the row above, whose method is of another group."""


@dataclass(frozen=True)
class Layout:
    """A table with all its texts."""

    name: str
    title: str
    """The first sentence of the caption."""
    details: str
    """The rest of the caption."""
    header: list[Label]
    """Labels of the columns after the first."""
    rows: list[Row]
    notes: dict[str, str]
    """Footnotes by their letter, in order of appearance."""
    remarks: list[str]
    """Footnotes of the table as a whole."""
    headings: list[Heading] = field(default_factory=list)
    """Over the labels of all columns after the first; []: there are none."""
    command: str = "dvc repro tables"
    """What writes it."""


def number_cells(table: TableSettings, results: pd.DataFrame) -> dict[tuple[str, str], Cell]:
    """The numbers with their marks, by method and `column` of the results."""
    return {
        (row["method"], row["column"]): Cell(
            value=printed(row["mean"], row["digits"]),
            std=printed(row["std"], row["digits"]) if table.uncertainty == "seeds" else "",
            interval=_interval(row),
            rank=row["mark"],
        )
        for _, row in results.iterrows()
    }


def difference_cells(results: pd.DataFrame) -> dict[tuple[str, str], Cell]:
    """Reproduced minus paper, by method and `column` of the results."""
    return {
        (row["method"], row["column"]): Cell(value=printed(row["difference"], row["digits"], signed=True))
        for _, row in results.iterrows()
    }


def _interval(row: pd.Series) -> tuple[str, str] | None:
    if math.isnan(row["low"]):
        return None
    return printed(row["low"], row["digits"]), printed(row["high"], row["digits"])


def printed(value: float, digits: int, signed: bool = False) -> str:
    """A number with `digits` decimals, on request with its sign; "" for NaN."""
    if math.isnan(value):
        return ""
    text = f"{abs(value) if signed else value:.{digits}f}"
    return (("±" if float(text) == 0 else "+" if value > 0 else "-") if signed else "") + text


def ranks(column: pd.DataFrame, table: TableSettings) -> dict[str, Rank]:
    """The marks of a column's methods: of the best as it is printed, with whatever cannot be told from it, and of the
    best of the others. One that says nothing is left out: which more than `MOST_SHARING` have, but for what a test has
    found, or all. One number alone is neither.

    Args:
        column: `method`, `mean`, `digits`, `missing` and `like_best` of its cells.
        table: Says which marks are wanted.
    """
    filled = column[~column["missing"]].set_index("method")
    values = {str(name): Decimal(printed(row["mean"], row["digits"])) for name, row in filled.iterrows()}
    if len(values) < 2:
        return {}
    tested = set(filled.index[filled["like_best"]])
    best = tested | {method for method, value in values.items() if value == max(values.values())}
    others = {method: value for method, value in values.items() if method not in best}
    second = {method for method, value in others.items() if value == max(others.values())}
    most = {"best": len(values) - 1 if tested else MOST_SHARING, "second": MOST_SHARING}
    marked: dict[Rank, set[str]] = {"best": best, "second": second}
    return {
        method: mark
        for mark, methods in marked.items()
        if mark in table.marks and len(methods) <= most[mark]
        for method in methods
    }


def details(params: Params, table: TableSettings, results: pd.DataFrame) -> Iterator[str]:
    """Sentences of the caption: what was measured on what, how strong the attacks were, and over which seeds."""
    learners = [learner for row in table.rows for learner in params.methods[row].learners.values()]
    architectures = sorted({learner.architecture or params.model.architecture for learner in learners})
    networks = ", ".join(f"`{architecture}`" for architecture in architectures)
    yield f"Accuracy (%) of {networks} on test images of `{params.data.name}`{_image_counts(table, results)}"
    if budgets := _budgets(params, table):
        yield f"Attack budgets: {budgets}"
    seeds = ", ".join(map(str, params.seeds))
    if len(params.seeds) == 1:
        yield f"Seed {seeds}"
    else:
        deviation = r" $\pm$ sample standard deviation" if table.uncertainty == "seeds" else ""
        yield f"Mean{deviation} over seeds {seeds}"
    if table.uncertainty == "wilson":
        yield "In brackets: 95% intervals of Wilson over test images"
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
    metrics = [metric_named(column.metric) for column in table.columns]
    radii: dict[str, list[float]] = {}
    for name in (name for metric in metrics for name in metric.attacks(params.evaluation)):
        attack = params.evaluation.attacks[name]
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


def remarks(params: Params, table: TableSettings) -> Iterator[str]:
    """What the reader must know of the table as a whole."""
    labels = {column.metric: column.label for column in table.columns}
    members = ", ".join(labels.get(name, f"`{name}`") for name in params.evaluation.union)
    if "union" in labels:
        yield f"{labels['union']}: mean of {members}."
    if "worst_case_union" in labels:
        yield f"{labels['worst_case_union']}: images that are correct under each of {members}."
    yield from _remarks_on_attacks(params, labels)
    if params.data.train_images is not None:
        everything = params.data.facts.train_images
        whole = "all" if everything is None else f"{everything:,}"
        yield f"Reduced: trained on {params.data.train_images:,} of {whole} images."
    if params.training.selection.split == "test":
        yield "The test images chose the checkpoint (`training.selection.split: test`): the numbers are optimistic."


def _remarks_on_attacks(params: Params, labels: Mapping[str, str]) -> Iterator[str]:
    """What attacks say of themselves, each remark once."""
    said: dict[str, list[str]] = {}
    for name, label in labels.items():
        if name in params.evaluation.attacks:
            remark = params.evaluation.attacks[name].remark(name in params.evaluation.union)
            said.setdefault(remark, []).append(label)
    yield from (f"{', '.join(named)}: {remark}." for remark, named in said.items() if remark)


def sentence(text: str) -> str:
    """A text that ends with a full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
