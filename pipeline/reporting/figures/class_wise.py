"""Accuracy by class: bars for a few classes, sorted curves for many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind, Methods
from pipeline.reporting.style import (
    COLUMN_WIDTH,
    deviations,
    figure_text,
    legend_above,
    looks,
    new_figure,
    note_below,
    plain_text,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS_UP_TO = 20
"""Classes; more of them are curves, sorted by the first method's accuracy."""


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
        labels = {method: figure_text(source.params.methods[method].label) for method in self.methods}
        classes = tuple(map(plain_text, source.params.data.facts.classes))
        figure = new_figure(COLUMN_WIDTH, 2.3)
        axes = figure.add_subplot()
        (_draw_bars if len(classes) <= BARS_UP_TO else _draw_curves)(axes, accuracies, labels, classes)
        axes.set(ylabel=figure_text(self.label), ylim=(0, 100))
        axes.grid(False, axis="x")
        if accuracies:
            legend_above(figure, axes.get_legend_handles_labels()[0])
        missing = [label for method, label in labels.items() if method not in accuracies]
        note_below(figure, f"Not measured: {', '.join(missing)}." if missing else "")
        return figure

    def _accuracies(self, source: FigureSource) -> dict[str, pd.DataFrame]:
        """By method that is measured, for each class `mean` and `std` over seeds, in percent."""
        import pandas as pd

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
            measured = [series for series in measured if len(series)]
            if measured:
                seeds = 100 * pd.concat(measured, axis="columns")
                found[method] = pd.DataFrame({"mean": seeds.mean(axis="columns"), "std": seeds.std(axis="columns")})
        return found


def _by_class(table: pd.DataFrame, attacks: list[str]) -> pd.Series:
    """The mean over the attacks of each class's accuracy; empty where one of them was not measured."""
    wide = table.pivot(index="label", columns="attack", values="accuracy").reindex(columns=attacks)
    return wide.dropna().mean(axis="columns")


def _draw_bars(
    axes: Axes, accuracies: dict[str, pd.DataFrame], labels: dict[str, str], classes: tuple[str, ...]
) -> None:
    places = np.arange(len(classes))
    width = 0.84 / max(len(accuracies), 1)
    for number, ((method, table), look) in enumerate(zip(accuracies.items(), looks(accuracies).values(), strict=True)):
        table = table.reindex(places)
        axes.bar(
            places + width * (number - (len(accuracies) - 1) / 2),
            table["mean"],
            width,
            yerr=deviations(table["mean"], table["std"]),
            label=labels[method],
            color=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            linewidth=0.3,
            error_kw={"elinewidth": 0.6, "capsize": 1, "capthick": 0.6},
        )
    long = max(map(len, classes)) > 2
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(places, classes, **turned)
    axes.set(xlabel="" if long else "class", xlim=(-0.6, len(classes) - 0.4))
    axes.tick_params(axis="x", length=0)


def _draw_curves(
    axes: Axes, accuracies: dict[str, pd.DataFrame], labels: dict[str, str], classes: tuple[str, ...]
) -> None:
    first = next(iter(accuracies), None)
    order = accuracies[first]["mean"].sort_values(kind="stable").index if first else None
    for (method, table), look in zip(accuracies.items(), looks(accuracies).values(), strict=True):
        values = table["mean"].reindex(order)
        marked = max(len(classes) // 12, 1)
        axes.plot(
            range(1, len(values) + 1), values, **look.curve, markersize=2.5, markevery=marked, label=labels[method]
        )
    judge = labels[first] if first else "accuracy"
    axes.set(xlabel=f"classes, from least to most accurate with {judge}", xlim=(0, len(classes) + 1))


FIGURE = ClassWiseFigure
