"""Everything that the report says, and how it becomes one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.config import Params
from pipeline.core.files import write_text
from pipeline.reporting.examples import NATURAL, Pictures
from pipeline.reporting.figures.trade_off import TradeOffFigure, frontier, points_between
from pipeline.reporting.page import text
from pipeline.reporting.page.charts import FRAME, Point, scatter
from pipeline.reporting.page.compare import comparison
from pipeline.reporting.page.experiments import Files, experiment_page, if_whole, read_files
from pipeline.reporting.results import awaits_corrupted_images, collect, measure
from pipeline.reporting.style import RESOLUTION
from pipeline.reporting.tables import lay_out, minus_paper, of_suite
from pipeline.tracking import finished_runs, read_artifacts

PARTS = Path(__file__).parent
SUMMARY_DIGITS = 1
NOTHING_CORRUPTED = (
    "Nothing is measured on corrupted images: `ood.methods` in `params.yaml` names whom `dvc repro` measures."
)
Links = dict[str, str]
"""By method, the part of the page about it."""


def gather(params: Params, figures: Path, pictures: Pictures, examples: int) -> dict[str, Any]:
    """Everything that the report of a suite says, by the names that the template uses.

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
    files = read_files([row["run_id"] for row in latest.values()])
    pages = [
        experiment_page(experiment, latest.get((experiment.name, experiment.seed)), files, pictures, examples)
        for experiment in params.experiments()
    ]
    measured = [page for page in pages if page["accuracies"]]
    ids = [latest[page["experiment"].name, page["experiment"].seed]["run_id"] for page in measured]
    verdicts = read_artifacts(ids, "verdicts.parquet", if_whole(pd.read_parquet)) if len(ids) > 1 else {}
    links = {page["experiment"].name: f"#{page['anchor']}" for page in reversed(pages)}  # that of the first seed stays
    drawn = list(_figures(params, figures))
    return {
        "best": list(_best(params, runs, links)),
        "trade_offs": list(_trade_offs(params, runs, links)),
        "tables": [table for name in params.tables for table in _tables(name, params, cells[name], links)],
        "figures": drawn,
        "not_drawn": [name for name in params.figures if name not in {figure["name"] for figure in drawn}],
        "experiments": pages,
        "measured": measured,
        "comparison": _comparison(measured, ids, files, verdicts),
        "signs": list(dict.fromkeys((sign["name"], sign["norm"]) for page in measured for sign in page["signs"])),
    }


def _comparison(
    measured: list[dict[str, Any]], ids: list[str], files: dict[str, Files], verdicts: dict[str, pd.DataFrame]
) -> dict[str, Any] | None:
    """What compares any two experiments whose verdicts are at hand; None where there are no two."""
    known = [(page, run) for page, run in zip(measured, ids, strict=True) if verdicts.get(run) is not None]
    if len(known) < 2:
        return None
    pages, histories = [page for page, _ in known], [files[run]["history"] for _, run in known]
    return comparison(pages, histories, [verdicts[run] for _, run in known])


def _best(params: Params, runs: pd.DataFrame, links: Links) -> Iterator[dict[str, Any]]:
    """The method with the highest mean over seeds of each main metric, among those that have them all."""
    metrics = [NATURAL, *params.evaluation.union, "union", "worst_case_union"]
    experiments = {name: {seed: params.experiment(name, seed) for seed in params.seeds} for name in params.methods}
    means = measure(experiments, metrics, runs).pivot(index="name", columns="metric", values="mean")
    means = means.reindex(list(params.methods)).dropna()
    for metric in metrics if len(means) else ():
        shown = means[metric].map(lambda value: f"{value:.{SUMMARY_DIGITS}f}")
        method = str(means[metric].idxmax())
        yield {
            "metric": _metric_label(params, metric),
            "method": params.methods[method].label,
            "value": shown[method],
            "link": links[method],
            "others": int((shown == shown[method]).sum()) - 1,
        }


def _metric_label(params: Params, metric: str) -> str:
    """As the first table that has the metric names it."""
    names = {"union": "Union", "worst_case_union": "Worst case", NATURAL: "Natural"}
    columns = [column for table in params.tables.values() for column in table.columns]
    return next((column.label for column in columns if column.metric == metric), names.get(metric, f"`{metric}`"))


def _trade_offs(params: Params, runs: pd.DataFrame, links: Links) -> Iterator[dict[str, Any]]:
    """The trade-off figures of `params.yaml` whose points are methods, for pointing at."""
    for figure in params.figures.values():
        if not isinstance(figure, TradeOffFigure) or figure.studies:
            continue
        points = points_between(figure, params, runs).dropna(subset=["x", "y"])
        if points.empty:
            continue
        best = set(frontier(points, *figure.signs).index)
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


def _tables(name: str, params: Params, cells: pd.DataFrame, links: Links) -> Iterator[dict[str, Any]]:
    """A table, and what it comes to beside the papers where they have numbers."""
    table = of_suite(name, params, cells)
    problem = NOTHING_CORRUPTED if awaits_corrupted_images(cells) else ""
    for form in filter(None, (table, None if problem else minus_paper(table))):
        yield {"layout": lay_out(form), "links": [links[method] for method in form.labels], "problem": problem}


def _figures(params: Params, folder: Path) -> Iterator[dict[str, Any]]:
    """All in the folder as they were drawn before, those of `params.yaml` first."""
    from PIL import Image

    found = {path.stem: path for path in sorted(folder.glob("*.png"))}
    for name in [name for name in dict.fromkeys([*params.figures, *found]) if name in found]:
        with Image.open(found[name]) as image:
            width, height = image.size
        settings = params.figures.get(name)
        caption, paper = (settings.caption, settings.paper) if settings else (name.replace("_", " "), "")
        shown = {"name": name, "caption": caption, "paper": paper, "width": width, "height": height}
        yield {**shown, "resolution": RESOLUTION, "address": text.data_uri(found[name].read_bytes())}


def render(params: Params, report: dict[str, Any]) -> str:
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
    environment.globals |= {"describe": text.describe, "frame": FRAME}
    style, script = (PARTS.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html.j2").render(
        report=report,
        params=params,
        style=Markup(style),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_report(params: Params, figures: Path, pictures: Pictures, examples: int, path: Path) -> None:
    """Write the report of a suite to `path`, one file; see `gather`.

    Raises:
        RequestError, PipelineError: as `gather`.
    """
    write_text(path, render(params, gather(params, figures, pictures, examples)))
