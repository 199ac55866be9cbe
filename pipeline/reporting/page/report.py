"""Everything that the report says, and how it becomes one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.config import OOD_METRICS, Params, TableColumn, TableSettings
from pipeline.data.images import ImageSplit, load_split
from pipeline.errors import PipelineError, RequestError
from pipeline.files import write_text
from pipeline.reporting.examples import NATURAL, ViewCache
from pipeline.reporting.layout import Layout, lay_out
from pipeline.reporting.page import text
from pipeline.reporting.page.charts import Point, Scatter, scatter
from pipeline.reporting.page.experiments import ExampleSource, ExperimentPage, experiment_page
from pipeline.reporting.results import fill
from pipeline.tracking import finished_runs

PARTS = Path(__file__).parent
SUMMARY_DIGITS = 1


@dataclass(frozen=True)
class Sources:
    """Where a report takes what is not in MLflow."""

    prepared: Path
    """Folder of the prepared data set."""
    cache: Path
    """Folder where crafted images are kept."""
    figures: Path
    """Folder of the figures."""
    examples: int
    """Images for each experiment."""
    announce: Callable[[str], None] = lambda message: None
    """Told of what takes long and of what is missing."""


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


@dataclass(frozen=True)
class FigureFile:
    """A figure as it was drawn before."""

    name: str
    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Report:
    """What the page says."""

    params: Params
    best: list[Best]
    trade_offs: list[Scatter]
    tables: list[Table]
    figures: list[FigureFile]
    experiments: list[ExperimentPage]
    figures_folder: str

    @property
    def measured(self) -> list[ExperimentPage]:
        """The experiments with numbers."""
        return [page for page in self.experiments if page.accuracies]

    @property
    def signs(self) -> list[tuple[str, str]]:
        """Name and norm of every sign of gradient masking that was looked for."""
        return list(dict.fromkeys((sign["name"], sign["norm"]) for page in self.measured for sign in page.signs))


def gather(params: Params, sources: Sources) -> Report:
    """Everything that the report of a suite says, from MLflow, the prepared data and the figures.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        PipelineError: the store is out of reach, or has no finished run of the suite.
    """
    runs = finished_runs(params.experiments())
    if runs.empty:
        raise PipelineError(
            f"MLflow has no finished run of suite '{params.suite}' with the settings in params.yaml: nothing to "
            "report. 'make repro' trains and evaluates; MLFLOW_TRACKING_URI points to a store that has the runs."
        )
    latest = {(row["method"], row["seed"]): row for _, row in runs.iterrows()}  # the last that finished wins
    source = ExampleSource(_split(params, sources), ViewCache(sources.cache), sources.examples, sources.announce)
    pages = [
        experiment_page(experiment, latest.get((experiment.name, experiment.seed)), source)
        for experiment in params.experiments()
    ]
    links = {page.experiment.name: f"#{page.anchor}" for page in reversed(pages)}  # that of the first seed stays
    summary = _summary(params, runs)
    return Report(
        params=params,
        best=list(_best(params, summary, links)),
        trade_offs=list(_trade_offs(params, summary, links)),
        tables=[_table(name, params, runs, links) for name in params.tables],
        figures=list(_figures(sources.figures)),
        experiments=pages,
        figures_folder=str(sources.figures),
    )


def _split(params: Params, sources: Sources) -> ImageSplit | None:
    if sources.examples == 0:
        return None
    try:
        return load_split(sources.prepared, params.data)
    except RequestError as error:
        sources.announce(f"no pictures of test images: {error}")
        return None


def _summary(params: Params, runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds in percent: a row for every method that has them all, a column for each main metric."""
    metrics = [NATURAL, *params.evaluation.union, "union", "worst_case_union"]
    columns = [TableColumn(metric=metric, label=metric) for metric in metrics]
    cells = fill(params, TableSettings(caption="", rows=list(params.methods), columns=columns), runs)
    return cells.pivot(index="method", columns="metric", values="mean").reindex(list(params.methods))[metrics].dropna()


def _metric_label(params: Params, metric: str) -> str:
    """As the first table that has the metric names it."""
    names = {"union": "Union", "worst_case_union": "Worst case", NATURAL: "Natural"}
    columns = [column for table in params.tables.values() for column in table.columns]
    return next((column.label for column in columns if column.metric == metric), names.get(metric, f"`{metric}`"))


def _best(params: Params, summary: pd.DataFrame, links: dict[str, str]) -> Iterator[Best]:
    for metric, values in summary.items() if len(summary) else ():
        method, value = str(values.idxmax()), f"{float(values.max()):.{SUMMARY_DIGITS}f}"
        yield Best(_metric_label(params, str(metric)), params.methods[method].label, value, links[method])


def _trade_offs(params: Params, summary: pd.DataFrame, links: dict[str, str]) -> Iterator[Scatter]:
    """Natural accuracy against the worst case, and the union's first two attacks against each other."""
    if summary.empty:
        return
    first, second, *_ = params.evaluation.union
    for title, x, y in [
        ("Accuracy and robustness", NATURAL, "worst_case_union"),
        ("Robustness in two norms", first, second),
    ]:
        points = [
            Point(
                label=text.plain(params.methods[method].label),
                link=links[method],
                values=(float(row[x]), float(row[y])),
                ours=getattr(params.methods[method].mixture, "rule", "") == "moving_average",
            )
            for method, row in zip(map(str, summary.index), summary.to_dict("records"), strict=True)
        ]
        x_label, y_label = (f"{text.plain(_metric_label(params, metric))} (%)" for metric in (x, y))
        yield scatter(title, x_label, y_label, points)


def _table(name: str, params: Params, runs: pd.DataFrame, links: dict[str, str]) -> Table:
    settings = params.tables[name]
    results = fill(params, settings, runs)
    measured = results[~results["missing"]]["metric"].isin(OOD_METRICS)
    corrupted = any(column.metric in OOD_METRICS for column in settings.columns)
    nothing = corrupted and not measured.any()
    problem = "Nothing is measured on corrupted images yet: `make ood` does." if nothing else ""
    return Table(lay_out(name, params, results), [links[method] for method in settings.rows], problem)


def _figures(folder: Path) -> Iterator[FigureFile]:
    from PIL import Image

    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            width, height = image.size
        yield FigureFile(path.stem, text.data_uri(path.read_bytes()), width, height)


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


def write_report(params: Params, sources: Sources, path: Path) -> Path:
    """Write the report of a suite as one file.

    Raises:
        RequestError, PipelineError: as `gather`.
    """
    write_text(path, render(gather(params, sources)))
    return path
