"""Tables with their numbers, and what is written of them: LaTeX, CSV and Markdown, pictures and a PDF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

import pandas as pd

from pipeline.config import Params, TableColumn, TableSettings
from pipeline.config.metrics import metric_named
from pipeline.core.files import write_text
from pipeline.reporting import latex
from pipeline.reporting.footnotes import Footnotes
from pipeline.reporting.layout import (
    Cell,
    Heading,
    Label,
    Layout,
    Row,
    details,
    difference_cells,
    number_cells,
    printed,
    ranks,
    remarks,
    sentence,
)
from pipeline.reporting.markdown import markdown, plain_text
from pipeline.reporting.papers import TITLES
from pipeline.reporting.results import beside_paper

WIDE = "_wide"
LIKE_BEST = (
    "Bold: the best of a column and what cannot be told from it on the same images (McNemar's exact test, p of at "
    "least 0.05; of several seeds and of the Union 95% intervals of differences, over images and over seeds)."
)
ENDINGS = (".tex", ".csv", f"{WIDE}.csv", ".md")


@dataclass(frozen=True)
class Column:
    """A column where it is printed."""

    group: str
    """Key of its group; "" where the table has one group, without a heading."""
    key: str
    suite: str
    heading: str
    """The heading of its group."""
    settings: TableColumn


@dataclass(frozen=True)
class Part:
    """What one suite gives a table."""

    label: str
    """Names it in the caption, where there are several."""
    params: Params
    table: TableSettings
    """The rows and columns that are the suite's."""
    results: pd.DataFrame
    """As `pipeline.reporting.results.fill` or `beside_paper` gives them."""


@dataclass(frozen=True)
class FilledTable:
    """A table with its numbers, of one suite or of several side by side."""

    name: str
    """The name of its files."""
    caption: str
    labels: dict[str, str]
    """The labels of its rows, in order, by method."""
    columns: list[Column]
    parts: dict[str, Part]
    """By the name of the suite, in order of appearance."""
    settings: TableSettings
    """How its numbers are printed."""
    command: str = "dvc repro tables"
    """What writes it."""
    is_difference: bool = False
    """Whether it shows reproduced minus paper."""

    @property
    def is_measured(self) -> bool:
        """Whether any cell has a number."""
        return any(not part.results["missing"].all() for part in self.parts.values())

    @property
    def cells(self) -> pd.DataFrame:
        """The results of all parts row by row, with `group`, `column`, `panel` (the heading), `suite` and `mark`."""
        frames = [
            part.results[part.results["metric"] == column.settings.metric].assign(
                group=column.group, column=column.key, panel=column.heading, suite=column.suite, mark=""
            )
            for column in self.columns
            for part in [self.parts[column.suite]]
        ]
        for frame, column in zip(frames, self.columns, strict=True):
            if metric_named(column.settings.metric).is_accuracy and not self.is_difference:
                frame["mark"] = frame["method"].map(ranks(frame, self.settings)).fillna("")
        joined, order = pd.concat(frames, ignore_index=True), list(self.labels)
        return joined.sort_values(
            "method", key=lambda methods: methods.map(order.index), kind="stable", ignore_index=True
        )


def of_suite(name: str, params: Params, results: pd.DataFrame) -> FilledTable:
    """Table `name` of `params`, filled with `results` as `pipeline.reporting.results.fill` gives them."""
    table = params.tables[name]
    labels = {method: params.methods[method].label for method in table.rows}
    columns = [Column("", column.metric, params.suite, "", column) for column in table.columns]
    parts = {params.suite: Part(params.suite, params, table, results)}
    return FilledTable(table.file or name, table.caption, labels, columns, parts, table)


def minus_paper(table: FilledTable) -> FilledTable | None:
    """The same table as reproduced minus paper, without rows and columns in which the papers have no number; None where
    they have none at all, or nothing is measured."""
    parts = {}
    for suite, part in table.parts.items():
        shown = beside_paper(part.params, part.table, part.results)
        if shown is None:
            continue
        columns = [column for column in part.table.columns if column.metric in set(shown["metric"])]
        rows = [row for row in part.table.rows if row in set(shown["method"])]
        # Differences stand alone, whatever the table's own numbers have beside them.
        own = part.table.model_copy(update={"columns": columns, "rows": rows, "uncertainty": "none"})
        parts[suite] = replace(part, table=own, results=shown)
    if not parts or not table.is_measured:
        return None
    printed_in = {name for part in parts.values() for name in part.results["table"]}
    titles = ", ".join(TITLES[name] for name in table.settings.paper if name in printed_in)
    cells = {suite: {column.metric for column in part.table.columns} for suite, part in parts.items()}
    methods = {method for part in parts.values() for method in part.table.rows}
    return replace(
        table,
        name=f"{table.name}_minus_paper",
        caption=f"Reproduced minus paper ({titles}): {table.caption}",
        labels={method: label for method, label in table.labels.items() if method in methods},
        columns=[column for column in table.columns if column.settings.metric in cells.get(column.suite, ())],
        parts=parts,
        is_difference=True,
    )


def lay_out(table: FilledTable) -> Layout:
    """A table with its caption, marks and footnotes."""
    results = table.cells
    cells = difference_cells(results) if table.is_difference else number_cells(table.settings, results)
    footnotes = Footnotes(results)

    def cell(method: str, column: Column) -> Cell:
        marks = footnotes.marks("cell", method, column.key)
        return replace(cells.get((method, column.key), Cell("")), marks=marks)

    first = _begin_groups(table)
    headings = groupby(table.columns, key=lambda column: (column.group, column.heading))
    return Layout(
        name=table.name,
        title=sentence(table.caption),
        details=" ".join(map(sentence, _details(table, is_whole=len(cells) == len(table.labels) * len(table.columns)))),
        header=[Label(column.settings.label, footnotes.marks("column", column.key)) for column in table.columns],
        rows=[
            Row(
                Label(label, footnotes.marks("method", method)),
                [cell(method, column) for column in table.columns],
                method in first,
            )
            for method, label in table.labels.items()
        ],
        notes={letter: note for note, letter in footnotes.letters.items()},
        remarks=[*footnotes.of_table, *_remarks(table)],
        headings=[
            Heading(Label(heading, footnotes.marks("group", group)), len(list(columns)))
            for (group, heading), columns in headings
            if group
        ],
        command=table.command,
    )


def _begin_groups(table: FilledTable) -> set[str]:
    """The methods that are of another group than the one in the row above."""
    groups = [group for part in table.parts.values() for group in part.params.groups]
    label_of = {method: group.label for group in groups for method in group.methods}
    return {below for above, below in pairwise(table.labels) if label_of.get(above) != label_of.get(below)}


def _details(table: FilledTable, is_whole: bool) -> list[str]:
    """What the caption says after its first sentence: of each suite what it alone says, then what all say."""
    said = {part.label: list(details(part.params, part.table, part.results)) for part in table.parts.values()}
    alone = [f"{label}: {'; '.join(own)}" for label, own in _alone(said).items() if own]
    sentences = [*alone, *_common(said)]
    if not table.is_difference:
        return sentences
    dashes = [] if is_whole else ["A dash without a footnote: the paper has no number"]
    return ["Percentage points", *sentences, *dashes]


def _remarks(table: FilledTable) -> list[str]:
    """What stands below the table: what holds for all suites, then what holds for one."""
    below = {part.label: list(remarks(part.params, part.table)) for part in table.parts.values()}
    marked = [LIKE_BEST] if (table.cells["mark"].eq("best") & table.cells["like_best"]).any() else []
    return [*marked, *_common(below), *(f"{label}: {text}" for label, own in _alone(below).items() for text in own)]


def _common(texts: Mapping[str, list[str]]) -> list[str]:
    first, *others = texts.values()
    return [text for text in first if all(text in own for own in others)]


def _alone(texts: Mapping[str, list[str]]) -> dict[str, list[str]]:
    common = _common(texts)
    return {label: [text for text in own if text not in common] for label, own in texts.items()}


def write_table(table: FilledTable, destination: Path) -> list[Path]:
    """Write a table to `destination` as `<name>.tex`, `.csv`, `_wide.csv` and `.md`; equal input gives equal bytes.

    Where the papers have numbers for it, it is written as `<name>_minus_paper`, too.

    Returns:
        The files.
    """
    paths: list[Path] = []
    for form in filter(None, (table, minus_paper(table))):
        layout = lay_out(form)
        contents = (latex.fragment(layout), _csv_rows(form), _wide_rows(form), markdown(layout))
        for ending, content in zip(ENDINGS, contents, strict=True):
            paths.append(destination / f"{form.name}{ending}")
            write_text(paths[-1], content)
    return paths


def _csv_rows(table: FilledTable) -> str:
    """One line per cell, those of several suites with `panel` and `suite`: numbers as data, with all the table's
    decimals, and as `shown` what the other forms print."""
    cells, digits = table.cells, table.settings.digits
    numbers = [key for key in ("std", "low", "high", "paper", "difference") if key in cells]
    shown = {
        "method": cells["method"],
        "label": cells["method"].map(table.labels).map(plain_text),
        "metric": cells["metric"],
        "value": [printed(value, digits) for value in cells["mean"]],
        **{key: [printed(value, digits) for value in cells[key]] for key in numbers},
        "shown": _shown(table),
        "mark": cells["mark"],
        "seeds": cells["seeds"],
        "images": cells["images"],
        "missing": cells["missing"].map({True: "true", False: "false"}),
        "command": cells["command"],
        "notes": cells["notes"].map(" ".join),
    }
    of_several = {key: cells[key] for key in ("panel", "suite")} if table.columns[0].group else {}
    return pd.DataFrame({**of_several, **shown}).to_csv(index=False, lineterminator="\n")


def _wide_rows(table: FilledTable) -> str:
    """One line per method, of several suites for each of them, and one column per metric, with what is printed."""
    cells = table.cells.assign(value=_shown(table))
    cells["label"] = cells["method"].map(table.labels).map(plain_text)
    index = [*(["panel", "suite"] if table.columns[0].group else []), "method", "label"]
    order = cells[index].drop_duplicates()
    wide = cells.pivot_table(index=index, columns="metric", values="value", aggfunc="first", sort=False)
    metrics = list(dict.fromkeys(cells["metric"]))
    wide = wide.reindex(pd.MultiIndex.from_frame(order)).reindex(columns=metrics)
    return wide.to_csv(lineterminator="\n")


def _shown(table: FilledTable) -> list[str]:
    numbers = table.cells["difference" if table.is_difference else "mean"]
    return [printed(value, digits) for value, digits in zip(numbers, table.cells["digits"], strict=True)]


def write_pictures(fragments: Sequence[Path], output: Path) -> Iterator[str]:
    """Draw every LaTeX fragment as a picture and compile all of them to one PDF; say what was written."""
    yield from (f"wrote {path}" for path in latex.draw_pictures(fragments))
    pdf = latex.compile_pdf(fragments, output)
    yield f"wrote {pdf}" if pdf else "pdflatex is not installed: the tables were not compiled ('make setup' says how)"


def remove_leftovers(folder: Path, written: Iterable[Path]) -> list[Path]:
    """Remove the tables that were written to `folder` before and are none of `written`: those that were dropped.

    Returns:
        The files: fragments that begin as ours do, and their other forms, the picture included.
    """
    names = {path.stem for path in written}
    dropped = [path for path in sorted(folder.glob("*.tex")) if path.stem not in names and _is_ours(path)]
    paths = [path.with_name(f"{path.stem}{ending}") for path in dropped for ending in (*ENDINGS, ".png")]
    removed = [path for path in paths if path.exists()]
    for path in removed:
        path.unlink()
    return removed


def _is_ours(fragment: Path) -> bool:
    with open(fragment, "rb") as stream:
        return stream.readline().rstrip().endswith(latex.MARK.encode())
