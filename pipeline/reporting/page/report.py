"""Everything that the report says, and how it becomes one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.config import Params
from pipeline.config.metrics import metric_named
from pipeline.core.files import write_text
from pipeline.reporting.examples import NATURAL, Pictures
from pipeline.reporting.figure_kinds.trade_off import TradeOffFigure
from pipeline.reporting.figures import trade_off
from pipeline.reporting.layout import Layout, lay_out, lay_out_difference
from pipeline.reporting.page import text
from pipeline.reporting.page.charts import Point, Scatter, scatter
from pipeline.reporting.page.experiments import ExperimentPage, RunFiles, experiment_page
from pipeline.reporting.results import awaits_corrupted_images, beside_paper, collect, measure
from pipeline.reporting.style import RESOLUTION
from pipeline.tracking import finished_runs

PARTS = Path(__file__).parent
SUMMARY_DIGITS = 1
NOTHING_CORRUPTED = (
    "Nothing is measured on corrupted images: `ood.methods` in `params.yaml` names whom `dvc repro` measures."
)


@dataclass(frozen=True)
class Table:
    """A table of `params.yaml`."""

    layout: Layout
    links: list[str]
    """For each row, the part of the page about its method."""
    problem: str = ""
    """Why it is not shown."""


@dataclass(frozen=True)
class Best:
    """The method with the highest value of a metric."""

    metric: str
    method: str
    value: str
    link: str
    others: int
    """Methods with the same value, as it is printed."""


@dataclass(frozen=True)
class FigureFile:
    """A figure as it was drawn before."""

    name: str
    caption: str
    paper: str
    address: str
    width: int
    height: int
    resolution: int = RESOLUTION


@dataclass(frozen=True)
class Report:
    """What the page says."""

    params: Params
    best: list[Best]
    trade_offs: list[Scatter]
    tables: list[Table]
    figures: list[FigureFile]
    not_drawn: list[str]
    """Figures of `params.yaml` without a file."""
    experiments: list[ExperimentPage]

    @property
    def measured(self) -> list[ExperimentPage]:
        """The experiments with numbers."""
        return [page for page in self.experiments if page.accuracies]

    @property
    def signs(self) -> list[tuple[str, str]]:
        """Name and norm of every sign of gradient masking that was looked for."""
        return list(dict.fromkeys((sign["name"], sign["norm"]) for page in self.measured for sign in page.signs))


def gather(params: Params, figures: Path, pictures: Pictures, examples: int) -> Report:
    """Everything that the report of a suite says.

    Args:
        params: The suite.
        figures: The folder of its figures.
        pictures: Its test images.
        examples: How many of them are shown for each experiment.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        PipelineError: the store is out of reach, or has no finished run of the suite.
    """
    runs = finished_runs(params.experiments())
    cells = collect(params, runs)
    latest = {(row["method"], row["seed"]): row for _, row in runs.iterrows()}  # the last that finished wins
    files = RunFiles.read([row["run_id"] for row in latest.values()])
    pages = [
        experiment_page(experiment, latest.get((experiment.name, experiment.seed)), files, pictures, examples)
        for experiment in params.experiments()
    ]
    links = {page.experiment.name: f"#{page.anchor}" for page in reversed(pages)}  # that of the first seed stays
    drawn = list(_figures(params, figures))
    return Report(
        params=params,
        best=list(_best(params, _summary(params, runs), links)),
        trade_offs=list(_trade_offs(params, runs, links)),
        tables=[table for name in params.tables for table in _tables(name, params, cells[name], links)],
        figures=drawn,
        not_drawn=[name for name in params.figures if name not in {figure.name for figure in drawn}],
        experiments=pages,
    )


def _summary(params: Params, runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds in percent: a row for every method that has them all, a column for each main metric."""
    metrics = [NATURAL, *params.evaluation.union, "union", "worst_case_union"]
    experiments = {name: {seed: params.experiment(name, seed) for seed in params.seeds} for name in params.methods}
    means = measure(experiments, metrics, runs).pivot(index="name", columns="metric", values="mean")
    return means.reindex(list(params.methods))[metrics].dropna()


def _metric_label(params: Params, metric: str) -> str:
    """As the first table that has the metric names it."""
    names = {"union": "Union", "worst_case_union": "Worst case", NATURAL: "Natural"}
    columns = [column for table in params.tables.values() for column in table.columns]
    return next((column.label for column in columns if column.metric == metric), names.get(metric, f"`{metric}`"))


def _best(params: Params, summary: pd.DataFrame, links: dict[str, str]) -> Iterator[Best]:
    for metric, values in summary.items() if len(summary) else ():
        shown = values.map(lambda value: f"{value:.{SUMMARY_DIGITS}f}")
        method = str(values.idxmax())
        value = str(shown[method])
        label = params.methods[method].label
        yield Best(_metric_label(params, str(metric)), label, value, links[method], int((shown == value).sum()) - 1)


def _trade_offs(params: Params, runs: pd.DataFrame, links: dict[str, str]) -> Iterator[Scatter]:
    """The trade-off figures of `params.yaml` whose points are methods, for pointing at."""
    for figure in params.figures.values():
        if not isinstance(figure, TradeOffFigure) or figure.studies:
            continue
        points = trade_off.points_between(figure, params, runs).dropna(subset=["x", "y"])
        if points.empty:
            continue
        signs = [1 if metric_named(axis.metric).is_accuracy else -1 for axis in (figure.x, figure.y)]
        best = set(trade_off.frontier(points, *signs).index)
        groups = [group.label for group in figure.groups if points["group"].eq(group.label).any()]
        shown = [
            Point(
                label=text.plain(params.methods[point["name"]].label),
                link=links[point["name"]],
                values=(float(point["x"]), float(point["y"])),
                group=groups.index(point["group"]),
                on_frontier=place in best,
            )
            for place, point in points.iterrows()
        ]
        x_label, y_label = text.plain(figure.x.label), text.plain(figure.y.label)
        yield scatter(figure.caption, x_label, y_label, groups, shown)


def _tables(name: str, params: Params, cells: pd.DataFrame, links: dict[str, str]) -> Iterator[Table]:
    """A table, and what it comes to beside the papers where they have numbers."""
    settings = params.tables[name]
    nothing = awaits_corrupted_images(cells)
    problem = NOTHING_CORRUPTED if nothing else ""
    yield Table(lay_out(name, params, cells), [links[method] for method in settings.rows], problem)
    beside = None if nothing else beside_paper(params, settings, cells)
    if beside is not None:
        printed = set(beside["method"])
        shown = [links[method] for method in settings.rows if method in printed]
        yield Table(lay_out_difference(name, params, beside), shown)


def _figures(params: Params, folder: Path) -> Iterator[FigureFile]:
    """All in the folder, those of `params.yaml` first."""
    from PIL import Image

    found = {path.stem: path for path in sorted(folder.glob("*.png"))}
    for name in [
        *(name for name in params.figures if name in found),
        *(name for name in found if name not in params.figures),
    ]:
        with Image.open(found[name]) as image:
            width, height = image.size
        settings = params.figures.get(name)
        caption, paper = (settings.caption, settings.paper) if settings else (name.replace("_", " "), "")
        yield FigureFile(name, caption, paper, text.data_uri(found[name].read_bytes()), width, height)


def render(report: Report) -> str:
    """The page. Equal content gives an equal page."""
    environment = Environment(
        loader=FileSystemLoader(PARTS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"html": text.html, "plain": text.plain, "duration": text.duration}
    environment.globals["describe"] = text.describe
    style, script = (PARTS.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html.j2").render(
        report=report,
        params=report.params,
        style=Markup(style),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_report(params: Params, figures: Path, pictures: Pictures, examples: int, path: Path) -> None:
    """Write the report of a suite to `path`, one file; see `gather`.

    Raises:
        RequestError, PipelineError: as `gather`.
    """
    write_text(path, render(gather(params, figures, pictures, examples)))
