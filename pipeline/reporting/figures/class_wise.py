"""Accuracy by class: bars for a few classes, sorted curves for many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config import Params
from pipeline.reporting.figure_kinds.class_wise import ClassWiseFigure
from pipeline.reporting.results import latest_runs
from pipeline.reporting.style import COLUMN_WIDTH, figure_text, looks, new_figure, note_below
from pipeline.tracking import read_class_accuracies

BARS_UP_TO = 20
"""Classes; more of them are curves, sorted by the first method's accuracy."""


def draw(settings: ClassWiseFigure, params: Params, runs: pd.DataFrame) -> Figure:
    """The figure of `settings` from the frame that `finished_runs` gives; call it inside `style()`.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.read_class_accuracies`.
    """
    accuracies = _accuracies(settings, params, runs)
    classes = params.data.class_names
    figure = new_figure(COLUMN_WIDTH, 2.3)
    axes = figure.add_subplot()
    (_draw_bars if len(classes) <= BARS_UP_TO else _draw_curves)(axes, accuracies, classes, params)
    axes.set(ylabel=figure_text(settings.label), ylim=(0, 100))
    axes.grid(False, axis="x")
    missing = [figure_text(params.methods[method].label) for method in settings.methods if method not in accuracies]
    if len(missing) < len(settings.methods):
        figure.legend(loc="outside upper center", ncols=2, columnspacing=1.2)
    note_below(figure, f"Not measured: {', '.join(missing)}." if missing else "")
    return figure


def _accuracies(settings: ClassWiseFigure, params: Params, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By method that is measured, for each class `mean` and `std` over seeds, in percent."""
    counting = {
        method: latest_runs([params.experiment(method, seed) for seed in params.seeds], runs)
        for method in settings.methods
    }
    tables = read_class_accuracies(run for by_seed in counting.values() for run in by_seed.values())
    found = {}
    for method, by_seed in counting.items():
        measured = [
            _by_class(tables[run], params.evaluation.union if settings.attack == "union" else [settings.attack])
            for run in by_seed.values()
            if run in tables
        ]
        measured = [series for series in measured if len(series)]
        if measured:
            seeds = 100 * pd.concat(measured, axis="columns")
            found[method] = pd.DataFrame({"mean": seeds.mean(axis="columns"), "std": seeds.std(axis="columns")})
    return found


def _by_class(table: pd.DataFrame, attacks: list[str]) -> pd.Series:
    """The mean over the attacks of each class's accuracy; empty where one of them was not measured."""
    wide = table.pivot(index="label", columns="attack", values="accuracy").reindex(columns=attacks)
    return wide.dropna().mean(axis="columns")


def _draw_bars(axes: Axes, accuracies: dict[str, pd.DataFrame], classes: tuple[str, ...], params: Params) -> None:
    places = np.arange(len(classes))
    width = 0.84 / max(len(accuracies), 1)
    styles = looks(accuracies)
    for number, (method, table) in enumerate(accuracies.items()):
        table = table.reindex(places)
        axes.bar(
            places + width * (number - (len(accuracies) - 1) / 2),
            table["mean"],
            width,
            yerr=table["std"],
            label=figure_text(params.methods[method].label),
            color=styles[method].colour,
            hatch=styles[method].hatch,
            edgecolor="white",
            linewidth=0.3,
            error_kw={"elinewidth": 0.6, "capsize": 1, "capthick": 0.6},
        )
    long = max(map(len, classes)) > 2
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(places, classes, **turned)
    axes.set(xlabel="" if long else "class", xlim=(-0.6, len(classes) - 0.4))
    axes.tick_params(axis="x", length=0)


def _draw_curves(axes: Axes, accuracies: dict[str, pd.DataFrame], classes: tuple[str, ...], params: Params) -> None:
    first = next(iter(accuracies.values()), None)
    order = None if first is None else first["mean"].sort_values(kind="stable").index
    for (method, table), look in zip(accuracies.items(), looks(accuracies).values(), strict=True):
        label = figure_text(params.methods[method].label)
        values = table["mean"].reindex(order)
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            **look.curve,
            markersize=2.5,
            markevery=max(len(classes) // 12, 1),
            label=label,
        )
    method = figure_text(params.methods[next(iter(accuracies))].label) if accuracies else "accuracy"
    axes.set(xlabel=f"classes, from least to most accurate with {method}", xlim=(0, len(classes) + 1))
