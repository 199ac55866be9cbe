"""Every trial of a search between its two objectives, with the frontier of those that no other one beats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config import Params
from pipeline.reporting.figures.trade_off import draw_points, frontier
from pipeline.reporting.results import latest_runs
from pipeline.reporting.style import COLOURS, COLUMN_WIDTH, Look, figure_text, new_figure, note_below
from pipeline.studies.trials import OBJECTIVES, Point, Search
from pipeline.tracking import finished_runs, read_selected_epochs, read_trials

TRIAL, FRONT, TABLES = "trial", "on the frontier", "as in the tables"
LOOKS = {
    TRIAL: Look(COLOURS[3], "o", "", ""),
    FRONT: Look(COLOURS[0], "s", "", ""),
    TABLES: Look("#000000", "*", "", ""),
}
SETTINGS = [field.name for field in fields(Point)]


def draw(params: Params) -> Figure:
    """The figure of the search that `params` declares, from MLflow; call it inside `style()`.

    Raises:
        RequestError: there is no such search; or as `finished_runs`.
        PipelineError: as `finished_runs`.
    """
    search = Search.of(params)
    trials, default = trials_of(search), _as_in_the_tables(search)
    best = frontier(trials, 1, 1)
    trials.loc[best.index, "group"] = FRONT
    trials.loc[trials["group"] != FRONT, "label"] = ""
    figure = new_figure(COLUMN_WIDTH, 2.7)
    axes = figure.add_subplot()
    axes.set(xlabel="natural accuracy, held-out images (%)", ylabel="worst-case union, held-out images (%)")
    note_below(figure, _remark(search, trials, default))
    points = pd.concat([trials.sort_values("group", ascending=False), default], ignore_index=True)
    draw_points(figure, axes, points, best, LOOKS, "nothing is measured")
    return figure


def trials_of(search: Search) -> pd.DataFrame:
    """One row per point that was tried: its settings, `group`, `label`, means and deviations over seeds in percent."""
    runs = read_trials(search.params.suite, search.digest).astype(dict.fromkeys(SETTINGS, float))
    by_trial = runs.merge(_accuracies(runs["run_id"]), on="run_id").groupby("trial")
    found = by_trial[[*SETTINGS, "x", "y"]].mean().join(by_trial[["x", "y"]].std().add_suffix("_std"))
    found = found.drop_duplicates(SETTINGS).reset_index()
    labels = [
        rf"$\gamma_1$ {ratio:g}, $c$ {interval:g}, $t'$ {warmup:g}"
        for ratio, interval, warmup in found[SETTINGS].itertuples(index=False)
    ]
    return found.assign(group=TRIAL, label=pd.Series(labels, dtype=object))


def _as_in_the_tables(search: Search) -> pd.DataFrame:
    """The method as it is: one row, or none where MLflow does not have it."""
    experiments = search.experiments(search.default)
    found = _accuracies(latest_runs(experiments, finished_runs(experiments)).values())[["x", "y"]]
    means, stds = found.mean().to_frame().T, found.std().add_suffix("_std").to_frame().T
    return means.join(stds).assign(group=TABLES, label="").dropna(subset=["x", "y"])


def _accuracies(run_ids: Iterable[str]) -> pd.DataFrame:
    """The objectives of runs in percent: `run_id`, `x`, `y`; runs that lack one are left out."""
    rows = [
        {"run_id": run, "x": 100 * record[OBJECTIVES[0]], "y": 100 * record[OBJECTIVES[1]]}
        for run, record in read_selected_epochs(run_ids).items()
        if set(OBJECTIVES) <= record.keys()
    ]
    return pd.DataFrame(rows, columns=["run_id", "x", "y"]).astype({"x": float, "y": float})


def _remark(search: Search, trials: pd.DataFrame, default: pd.DataFrame) -> str:
    """What the points are, and what is missing."""
    label, count = figure_text(search.method.label), len(trials)
    parts = [
        f"{label}, {count} {'setting' if count == 1 else 'settings'}; $\\gamma_1$ at the last breakpoint."
        if count
        else f"{label}. No trial is measured: 'make search'.",
        "Bars: standard deviation over seeds." if len(search.settings.seeds) > 1 else "",
        "Not measured: the setting in the tables." if default.empty else "",
    ]
    return " ".join(filter(None, parts))
