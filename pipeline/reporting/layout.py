"""What a printed table says, before it is LaTeX or Markdown: numbers, marks, caption and footnotes.

Texts are plain here, except that `$...$` is math, as are `_{...}` and `^{...}`, and that backquotes enclose code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

import pandas as pd

from pipeline.config import TRAINING_SECONDS, PaperTable, Params, TableColumn, TableSettings
from pipeline.config.metrics import metric_named
from pipeline.core.datasets import DATASETS
from pipeline.reporting.footnotes import Footnotes
from pipeline.reporting.papers import TITLES

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
class Heading:
    """What several columns next to each other have in common."""

    label: Label
    columns: int


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
    headings: list[Heading] = field(default_factory=list)
    """Over the labels of all columns after the first; []: there are none."""
    command: str = "dvc repro tables"
    """What writes it."""


@dataclass(frozen=True)
class ColumnGroup:
    """Columns of a table that stand together."""

    key: str
    """As `group` of the results; "" where the table has one group, without a heading."""
    heading: str
    columns: dict[str, str]
    """Labels by key, which is as `column` of the results."""


@dataclass(frozen=True)
class Texts:
    """What is said around a table's cells."""

    name: str
    caption: str
    details: list[str]
    """Sentences of the caption after the first."""
    remarks: list[str]
    """What stands below it, after the footnotes on some of its numbers."""
    labels: dict[str, str]
    """The labels of its rows, in order, by method."""


def lay_out(name: str, params: Params, results: pd.DataFrame) -> Layout:
    """Table `name` of `params`, filled with `results` (as `pipeline.reporting.results.fill` gives them)."""
    table, results = params.tables[name], _one_group(results)
    return assemble(
        _texts(table.file or name, params, table, table.caption, details(params, table, results)),
        _columns_of(table),
        number_cells(table, results),
        results,
    )


def lay_out_difference(name: str, params: Params, results: pd.DataFrame) -> Layout:
    """The same table as reproduced minus paper.

    Args:
        name: A key of `tables`.
        params: What the table's texts are taken from.
        results: As `pipeline.reporting.results.beside_paper` gives them: rows and columns without any printed number
            are left out.
    """
    table, results = params.tables[name], _one_group(results)
    columns = [column for column in table.columns if column.metric in set(results["metric"])]
    rows = [row for row in table.rows if row in set(results["method"])]
    # Differences stand alone, whatever the table's own numbers have beside them.
    shown = table.model_copy(update={"columns": columns, "rows": rows, "uncertainty": "none"})
    cells = difference_cells(shown, results)
    said = difference_details(details(params, shown, results), whole=len(cells) == len(rows) * len(columns))
    caption = difference_caption(table.caption, table.paper, results)
    texts = _texts(f"{table.file or name}_minus_paper", params, shown, caption, said)
    return assemble(texts, _columns_of(shown), cells, results)


def _one_group(results: pd.DataFrame) -> pd.DataFrame:
    """The results of one suite as `assemble` takes them."""
    return results.assign(column=results["metric"], group="")


def _columns_of(table: TableSettings) -> list[ColumnGroup]:
    return [ColumnGroup("", "", {column.metric: column.label for column in table.columns})]


def _texts(name: str, params: Params, table: TableSettings, caption: str, details: Iterable[str]) -> Texts:
    labels = {method: params.methods[method].label for method in table.rows}
    return Texts(name, caption, list(details), list(remarks(params, table)), labels)


def number_cells(table: TableSettings, results: pd.DataFrame) -> dict[tuple[str, str], Cell]:
    """The numbers with their marks, by method and column.

    Args:
        table: How they are printed.
        results: As `assemble` takes them.
    """
    accuracies = results[[metric_named(name).is_accuracy for name in results["metric"]]]
    ranks = {column: _ranks(numbers, table) for column, numbers in accuracies.groupby("column")}
    return {
        (row["method"], row["column"]): Cell(
            value=printed(row["mean"], table.digits),
            std=printed(row["std"], table.digits) if table.uncertainty == "seeds" else "",
            interval=_interval(row, table.digits),
            rank=ranks.get(row["column"], {}).get(row["method"], ""),
        )
        for _, row in results.iterrows()
    }


def difference_cells(table: TableSettings, results: pd.DataFrame) -> dict[tuple[str, str], Cell]:
    """Reproduced minus paper, by method and column; arguments as those of `number_cells`."""
    return {
        (row["method"], row["column"]): Cell(value=printed(row["difference"], table.digits, signed=True))
        for _, row in results.iterrows()
    }


def difference_details(said: Iterable[str], whole: bool) -> list[str]:
    """Sentences about a table of differences; `whole`: the papers have a number for every cell."""
    sentences = ["Percentage points", *said]
    return sentences if whole else [*sentences, "A dash without a footnote: the paper has no number"]


def difference_caption(caption: str, papers: list[PaperTable], results: pd.DataFrame) -> str:
    """A table's caption when it is reproduced minus paper: it names the papers' tables that a number comes from."""
    titles = ", ".join(TITLES[name] for name in papers if name in set(results["table"]))
    return f"Reproduced minus paper ({titles}): {caption}"


def assemble(
    texts: Texts, groups: list[ColumnGroup], cells: dict[tuple[str, str], Cell], results: pd.DataFrame
) -> Layout:
    """A table with its footnotes where they belong.

    Args:
        texts: What is said around its cells.
        groups: Its columns.
        cells: By method and column; those that are not there are dashes without a footnote.
        results: As `pipeline.reporting.results.fill` gives them, with `column` and `group`, the keys in `groups`.
    """
    footnotes = Footnotes(results)
    columns = {key: label for group in groups for key, label in group.columns.items()}

    def cell(method: str, column: str) -> Cell:
        found = cells.get((method, column), Cell(""))
        return replace(found, marks=footnotes.of_cell(method, column))

    return Layout(
        name=texts.name,
        title=_sentence(texts.caption),
        details=" ".join(_sentence(text) for text in texts.details),
        header=[Label(label, footnotes.of_column(key)) for key, label in columns.items()],
        rows=[
            Row(Label(label, footnotes.of_row(method)), [cell(method, column) for column in columns])
            for method, label in texts.labels.items()
        ],
        notes={letter: note for note, letter in footnotes.letters.items()},
        remarks=[*footnotes.of_table, *texts.remarks],
        headings=[
            Heading(Label(group.heading, footnotes.of_group(group.key)), len(group.columns))
            for group in groups
            if group.key
        ],
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
        everything = DATASETS[params.data.name].train_images
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


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
