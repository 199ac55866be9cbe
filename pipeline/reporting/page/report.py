"""Everything that the report says, and how it becomes one file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.config import Params
from pipeline.core.digits import decimals
from pipeline.core.files import read_frame, write_text
from pipeline.evaluation.statistics import wilson
from pipeline.reporting import latex
from pipeline.reporting.examples import NATURAL, Pictures
from pipeline.reporting.figures.trade_off import TradeOffFigure, frontier, points_between
from pipeline.reporting.page import text
from pipeline.reporting.page.charts import scatter
from pipeline.reporting.page.compare import comparison
from pipeline.reporting.page.experiments import Files, experiment_page, read_files
from pipeline.reporting.results import awaits_corrupted_images, collect, if_whole, measure
from pipeline.reporting.style import RESOLUTION, looks
from pipeline.reporting.tables import lay_out, minus_paper, of_suite
from pipeline.tracking import finished_runs, read_artifacts

PARTS = Path(__file__).parent
PLOTLY = "plotly-basic-4.1.1.min.js"
"""As npm has it in the package plotly.js-basic-dist-min; `plotly-LICENSE` is its licence."""
SUMMARY_DIGITS = 1
NOTHING_CORRUPTED = (
    "Nothing is measured on corrupted images: `ood.methods` in `params.yaml` names whom `dvc repro` measures."
)
NOT_MEASURED = "Nothing of this table is measured yet: `make repro` measures it."
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
    verdicts = read_artifacts(ids, "verdicts.parquet", if_whole(read_frame)) if len(ids) > 1 else {}
    links = {page["experiment"].name: f"#{page['anchor']}" for page in reversed(pages)}  # that of the first seed stays
    drawn = {figure["name"]: figure for figure in _figures(params, figures)}
    trade_offs = dict(_trade_offs(params, runs, links))
    compared = _comparison(measured, ids, files, verdicts)
    return {
        "origin": _origin(latest.values(), measured),
        "best": list(_best(params, runs, links)),
        "trade_offs": [chart | {"drawn": drawn.get(name)} for name, chart in trade_offs.items()],
        "tables": [table for name in params.tables for table in _tables(name, params, cells[name], links)],
        "figures": [figure for name, figure in drawn.items() if name not in trade_offs],
        "not_drawn": _not_drawn(params, drawn),
        "experiments": pages,
        "measured": measured,
        "comparison": compared,
        "data": {"groups": _groups(params), "compare": compared and compared["data"]},
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


def _origin(runs: Iterable[pd.Series], measured: list[dict[str, Any]]) -> dict[str, Any]:
    """When and from which commits what is measured came."""
    days = sorted({f"{run['end_time']:%Y-%m-%d}" for run in runs})
    return {"days": days, "commits": sorted({page["facts"]["Commit"] for page in measured})}


def _groups(params: Params) -> dict[str, str]:
    """By experiment, the group that the trade-off figures put its method in."""
    figures = [figure for figure in params.figures.values() if isinstance(figure, TradeOffFigure)]
    groups = {method: text.plain(group.label) for one in figures for group in one.groups for method in group.methods}
    names = {experiment.identifier: experiment.name for experiment in params.experiments()}
    return {identifier: groups[method] for identifier, method in names.items() if method in groups}


def _not_drawn(params: Params, drawn: Mapping[str, Any]) -> dict[str, list[str]]:
    """The figures of `params.yaml` that are not there, by the command that measures what they show."""
    found: dict[str, list[str]] = {}
    for name, figure in params.figures.items():
        if name not in drawn:
            found.setdefault(figure.command, []).append(name)
    return found


def _best(params: Params, runs: pd.DataFrame, links: Links) -> Iterator[dict[str, Any]]:
    """The method with the highest mean over seeds of each main metric, among those that have them all."""
    metrics = [NATURAL, *params.evaluation.union, "union", "worst_case_union"]
    experiments = {name: {seed: params.experiment(name, seed) for seed in params.seeds} for name in params.methods}
    cells = measure(experiments, metrics, runs)
    means = cells.pivot(index="name", columns="metric", values="mean").reindex(list(params.methods)).dropna()
    for metric in metrics if len(means) else ():
        method = str(means[metric].idxmax())
        images = cells.loc[(cells["name"] == method) & (cells["metric"] == metric), "images"].fillna(0).item()
        digits = decimals(images) if images else SUMMARY_DIGITS
        ends = [100 * end for end in wilson(means[metric][method] / 100, images)] if images else []
        yield {
            "metric": _metric_label(params, metric),
            "name": metric,
            "method": params.methods[method].label,
            "value": f"{means[metric][method]:.{digits}f}",
            "interval": " to ".join(f"{end:.{digits}f}" for end in ends),
            "images": images,
            "link": links[method],
        }


def _metric_label(params: Params, metric: str) -> str:
    """As the first table that has the metric names it."""
    names = {"union": "Union", "worst_case_union": "Worst case", NATURAL: "Natural"}
    columns = [column for table in params.tables.values() for column in table.columns]
    return next((column.label for column in columns if column.metric == metric), names.get(metric, f"`{metric}`"))


def _trade_offs(params: Params, runs: pd.DataFrame, links: Links) -> Iterator[tuple[str, dict[str, Any]]]:
    """The trade-off figures of `params.yaml` whose points are methods, for pointing at."""
    for name, figure in params.figures.items():
        if not isinstance(figure, TradeOffFigure) or figure.studies:
            continue
        points = points_between(figure, params, runs).dropna(subset=["x", "y"])
        if points.empty:
            continue
        points["label"] = [text.plain(params.methods[method].label) for method in points["name"]]
        points["key"] = [links[method].removeprefix("#experiment-") for method in points["name"]]
        grouped = looks(group.label for group in figure.groups)
        for axis in "xy":
            points[f"{axis}_said"] = [_with_interval(point, axis) for _, point in points.iterrows()]
        x_label, y_label = text.plain(figure.x.label), text.plain(figure.y.label)
        best = frontier(points, *figure.signs)
        yield name, scatter(text.plain(figure.caption), x_label, y_label, points, best, grouped)


def _with_interval(point: pd.Series, axis: str) -> str:
    value, below, above, images = (point[f"{axis}{part}"] for part in ("", "_below", "_above", "_images"))
    digits = SUMMARY_DIGITS if pd.isna(images) else decimals(images)
    interval = "" if pd.isna(below) else f" ({value - below:.{digits}f} to {value + above:.{digits}f})"
    return f"{value:.{digits}f}{interval}"


def _tables(name: str, params: Params, cells: pd.DataFrame, links: Links) -> Iterator[dict[str, Any]]:
    """A table, and what it comes to beside the papers where they have numbers."""
    table = of_suite(name, params, cells)
    problem = NOTHING_CORRUPTED if awaits_corrupted_images(cells) else "" if table.is_measured else NOT_MEASURED
    for form in filter(None, (table, None if problem else minus_paper(table))):
        layout = lay_out(form)
        yield {
            "layout": layout,
            "links": [links[method] for method in form.labels],
            "problem": problem,
            "latex": latex.fragment(layout),
        }


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
        vector = found[name].with_suffix(".svg")
        shown |= {"svg": vector.read_text("utf-8") if vector.exists() else ""}
        yield {**shown, "resolution": RESOLUTION, "address": text.data_uri(found[name].read_bytes())}


def page_environment() -> Environment:
    """Where the page's templates are filled in."""
    environment = Environment(
        loader=FileSystemLoader(PARTS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "html": text.html,
        "plain": text.plain,
        "duration": text.duration,
        "data": _data,
        "script": _script,
    }
    environment.globals |= {"describe": text.describe, "decimals": decimals}
    return environment


def render(params: Params, report: dict[str, Any]) -> str:
    """The page. Equal content gives an equal page."""
    style, script, plotly = (PARTS.joinpath(name).read_text("utf-8") for name in ("report.css", "report.js", PLOTLY))
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            params=params,
            style=Markup(style),
            scripts={_digest(code): Markup(code) for code in (plotly, script)},
        )
    )


def _data(content: Any) -> Markup:
    """JSON, for a script element."""
    return Markup(json.dumps(content, separators=(",", ":")).replace("<", r"\u003c"))


def _script(source: str) -> Markup:
    """LaTeX, for a script element, which must not end it."""
    return Markup(source.replace("<", "<{}"))


def _digest(script: str) -> str:
    """What the content security policy knows a script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def write_report(params: Params, figures: Path, pictures: Pictures, examples: int, path: Path) -> None:
    """Write the report of a suite to `path`, one file; see `gather`.

    Raises:
        RequestError, PipelineError: as `gather`.
    """
    write_text(path, render(params, gather(params, figures, pictures, examples)))
