"""What a printed table says, before it is LaTeX or Markdown: numbers, marks, caption and footnotes.

Texts are plain here, except that `$...$` is math, as are `_{...}` and `^{...}`, and that backquotes enclose code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

import pandas as pd

from pipeline.config import TRAINING_SECONDS, Params, TableColumn, TableSettings
from pipeline.data.facts import DATASETS
from pipeline.reporting.footnotes import Footnotes
from pipeline.reporting.papers import TITLES
from pipeline.reporting.results import UNRANKED

Rank = Literal["", "best", "second"]
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
class Row:
    """One method."""

    label: Label
    cells: list[Cell]


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


def lay_out(name: str, params: Params, results: pd.DataFrame) -> Layout:
    """Table `name` of `params`, filled with `results` (as `pipeline.reporting.results.fill` gives them)."""
    table = params.tables[name]
    accuracies = results[~results["metric"].isin(UNRANKED)]
    ranks = {metric: _ranks(column, table) for metric, column in accuracies.groupby("metric")}
    cells = {
        (row["method"], row["metric"]): Cell(
            value=printed(row["mean"], table.digits),
            std=printed(row["std"], table.digits) if table.uncertainty == "seeds" else "",
            interval=_interval(row, table.digits),
            rank=ranks.get(row["metric"], {}).get(row["method"], ""),
        )
        for _, row in results.iterrows()
    }
    return _assemble(
        table.file or name, params, results, cells, table.caption, [*_details(params, table, results)], table
    )


def lay_out_difference(name: str, params: Params, results: pd.DataFrame) -> Layout:
    """The same table as reproduced minus paper.

    Args:
        name: A key of `tables`.
        params: What the table's texts are taken from.
        results: As `pipeline.reporting.results.beside_paper` gives them: rows and columns without any printed number
            are left out.
    """
    table = params.tables[name]
    columns = [column for column in table.columns if column.metric in set(results["metric"])]
    rows = [row for row in table.rows if row in set(results["method"])]
    # Differences stand alone, whatever the table's own numbers have beside them.
    shown = table.model_copy(update={"columns": columns, "rows": rows, "uncertainty": "none"})
    cells = {
        (row["method"], row["metric"]): Cell(value=printed(row["difference"], table.digits, signed=True))
        for _, row in results.iterrows()
    }
    details = ["Percentage points", *_details(params, shown, results)]
    if len(cells) < len(shown.rows) * len(shown.columns):
        details.append("A dash without a footnote: the paper has no number")
    caption = f"Reproduced minus paper ({_paper_titles(table, results)}): {table.caption}"
    return _assemble(f"{table.file or name}_minus_paper", params, results, cells, caption, details, shown)


def _paper_titles(table: TableSettings, results: pd.DataFrame) -> str:
    """Of those of the papers' tables that a number comes from."""
    return ", ".join(TITLES[name] for name in table.paper if name in set(results["table"]))


def _assemble(
    name: str,
    params: Params,
    results: pd.DataFrame,
    cells: dict[tuple[str, str], Cell],
    caption: str,
    details: Iterable[str],
    table: TableSettings,
) -> Layout:
    footnotes = Footnotes(results)

    def cell(method: str, metric: str) -> Cell:
        found = cells.get((method, metric), Cell(""))
        return replace(found, marks=footnotes.of_cell(method, metric))

    return Layout(
        name=name,
        title=_sentence(caption),
        details=" ".join(_sentence(text) for text in details),
        header=[Label(column.label, footnotes.of_column(column.metric)) for column in table.columns],
        rows=[
            Row(
                Label(params.methods[method].label, footnotes.of_row(method)),
                [cell(method, column.metric) for column in table.columns],
            )
            for method in table.rows
        ],
        notes={letter: note for note, letter in footnotes.letters.items()},
        remarks=[*footnotes.of_table, *_remarks(params, table)],
    )


def _interval(row: pd.Series, digits: int) -> tuple[str, str] | None:
    if math.isnan(row["low"]):
        return None
    return printed(row["low"], digits), printed(row["high"], digits)


def printed(value: float, digits: int, signed: bool = False) -> str:
    """A number with `digits` decimals, on request with its sign; "" for NaN."""
    if math.isnan(value):
        return ""
    text = f"{abs(value) if signed else value:.{digits}f}"
    return (("±" if float(text) == 0 else "+" if value > 0 else "-") if signed else "") + text


def _ranks(column: pd.DataFrame, table: TableSettings) -> dict[str, Rank]:
    """Best and second best of a column as it is printed; ties share. One number alone is neither."""
    filled = column[~column["missing"]]
    values = {row["method"]: Decimal(printed(row["mean"], table.digits)) for _, row in filled.iterrows()}
    if len(values) < 2:
        return {}
    order = sorted(set(values.values()), reverse=True)
    names: tuple[Rank, ...] = ("best", "second")
    ranks = dict(zip(order, names, strict=False))
    return {method: ranks[value] for method, value in values.items() if ranks.get(value) in table.marks}


def _details(params: Params, table: TableSettings, results: pd.DataFrame) -> Iterator[str]:
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
    if params.data.train_images is not None:
        everything = DATASETS[params.data.name].train_images
        whole = "all" if everything is None else f"{everything:,}"
        yield f"Reduced: trained on {params.data.train_images:,} of {whole} images."
    if params.training.selection.split == "test":
        yield "The test images chose the checkpoint (`training.selection.split: test`): the numbers are optimistic."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
