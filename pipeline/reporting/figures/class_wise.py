"""Accuracy by class: points with error bars for a few classes, sorted curves for many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind, Methods, NothingToShow
from pipeline.reporting.style import (
    COLUMN_WIDTH,
    Look,
    bars_note,
    deviations,
    figure_text,
    keep_percentages,
    legend_above,
    method_looks,
    new_figure,
    note_below,
    plain_text,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS_UP_TO = 20
"""Classes; more of them are curves, sorted by the first method's accuracy."""
TOGETHER = 0.72
"""The share of a class's place that the points of all methods take."""


class ClassWiseFigure(FigureSettings):
    """The accuracy of each class of the data set under one attack, `natural`, or `union`: the mean of its attacks."""

    kind: Literal["class_wise"]
    attack: str
    label: str
    """How the axis names the accuracy."""
    methods: Methods

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "attack", self.attack
        yield from (("method", method) for method in self.methods)

    @override
    def draw(self, source: FigureSource) -> Figure:
        """Raises as `pipeline.tracking.read_class_accuracies`."""
        accuracies = self._accuracies(source)
        if not accuracies:
            raise NothingToShow(f"no accuracies by class under {self.attack}; '{self.command}' measures them")
        params = source.params
        labels = {method: figure_text(params.methods[method].label) for method in self.methods}
        classes = tuple(map(plain_text, params.data.facts.classes))
        figure = new_figure(COLUMN_WIDTH, 2.5)
        axes = figure.add_subplot()
        few = len(classes) <= POINTS_UP_TO
        (_draw_points if few else _draw_curves)(axes, accuracies, labels, classes, method_looks(params))
        axes.set_ylabel(figure_text(self.label))
        axes.grid(False, axis="x")
        keep_percentages(axes, "y")
        legend_above(figure, axes.get_legend_handles_labels()[0])
        missing = [label for method, label in labels.items() if method not in accuracies]
        bars = bars_note(len(params.seeds)) if few else ""
        note_below(figure, f"{bars} Not measured: {', '.join(missing)}." if missing else bars)
        return figure

    def _accuracies(self, source: FigureSource) -> dict[str, pd.DataFrame]:
        """By method that is measured, for each class `mean`, and how far its error bar reaches, in percent."""
        from pipeline.reporting.results import latest_runs
        from pipeline.tracking import read_class_accuracies

        params = source.params
        attacks = params.evaluation.union if self.attack == "union" else [self.attack]
        counting = {
            method: latest_runs([params.experiment(method, seed) for seed in params.seeds], source.runs).values()
            for method in self.methods
        }
        tables = read_class_accuracies(run for runs in counting.values() for run in runs)
        found = {}
        for method, runs in counting.items():
            measured = [_by_class(tables[run], attacks) for run in runs if run in tables]
            measured = [table for table in measured if len(table)]
            if measured:
                found[method] = _over_seeds(measured, len(params.seeds))
        return found


def _by_class(table: pd.DataFrame, attacks: list[str]) -> pd.DataFrame:
    """The mean over the attacks of each class's `accuracy`, and its `images`; empty where one was not measured."""
    wide = table.pivot(index="label", columns="attack", values=["accuracy", "images"])
    named = [(value, attack) for value in ("accuracy", "images") for attack in attacks]
    whole = wide.reindex(columns=named).dropna()
    return whole.T.groupby(level=0).mean().T


def _over_seeds(tables: list[pd.DataFrame], expected: int) -> pd.DataFrame:
    """`mean`, `below` and `above` of each class; of the one seed that is expected, Wilson's 95% interval."""
    import pandas as pd

    from pipeline.evaluation.statistics import wilson

    shares = 100 * pd.concat([table["accuracy"] for table in tables], axis="columns")
    mean = shares.mean(axis="columns")
    if expected > 1:
        below, above = deviations(mean, shares.std(axis="columns"))
    else:
        counts = tables[0]["images"].astype(int)
        ends = 100 * np.array([wilson(share / 100, count) for share, count in zip(mean, counts, strict=True)])
        below, above = (mean - ends[:, 0]).clip(lower=0), (ends[:, 1] - mean).clip(lower=0)
    return pd.DataFrame({"mean": mean, "below": below, "above": above})


def _draw_points(
    axes: Axes,
    accuracies: dict[str, pd.DataFrame],
    labels: dict[str, str],
    classes: tuple[str, ...],
    chosen: dict[str, Look],
) -> None:
    """The methods of a class beside each other."""
    places = np.arange(len(classes))
    shifts = TOGETHER * (np.arange(len(accuracies)) - (len(accuracies) - 1) / 2) / len(accuracies)
    for shift, (method, table) in zip(shifts, accuracies.items(), strict=True):
        table = table.reindex(places)
        options = chosen[method].point | {"markersize": 3, "label": labels[method], "clip_on": False}
        axes.errorbar(
            places + shift, table["mean"], table[["below", "above"]].to_numpy().T, **options, elinewidth=0.6, capsize=0
        )
    for edge in places[1:] - 0.5:
        axes.axvline(edge, color="#e4e4e4", linewidth=0.5, zorder=0)
    long = max(map(len, classes)) > 2
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(places, classes, **turned)
    axes.set(xlabel="" if long else "class", xlim=(-0.6, len(classes) - 0.4))
    axes.tick_params(axis="x", length=0)


def _draw_curves(
    axes: Axes,
    accuracies: dict[str, pd.DataFrame],
    labels: dict[str, str],
    classes: tuple[str, ...],
    chosen: dict[str, Look],
) -> None:
    first = next(iter(accuracies))
    order = accuracies[first]["mean"].sort_values(kind="stable").index
    for method, table in accuracies.items():
        values = table["mean"].reindex(order)
        options = chosen[method].curve | {"markersize": 2.5, "markevery": max(len(classes) // 12, 1)}
        axes.plot(range(1, len(values) + 1), values, **options, label=labels[method])
    axes.set(xlabel=f"classes, from least to most accurate with {labels[first]}", xlim=(0, len(classes) + 1))


FIGURE = ClassWiseFigure
