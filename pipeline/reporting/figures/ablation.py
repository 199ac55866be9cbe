"""What a study varies against metrics: curves where it is a number, points where it is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Transform

from pipeline.config import MovingAverageSettings, Params
from pipeline.config.studies import FirstRatioStudy
from pipeline.core.errors import RequestError
from pipeline.reporting.figure_kinds.ablation import AblationFigure
from pipeline.reporting.results import measure
from pipeline.reporting.style import COLUMN_WIDTH, MISSING, Look, figure_text, looks, new_figure, note_below
from pipeline.studies.cells import Cell

MOST_TICKS = 11

MISSING_NOTE = "\N{MULTIPLICATION SIGN}: not measured."
ROW = 0.145
"""Inches for each setting."""
SHORT_LABEL = 10
"""Letters of a label of which three stand side by side in a column."""


@dataclass(frozen=True)
class Setting:
    """One setting of one method: its experiments with all seeds are one point."""

    method: str
    text: str
    value: float | None
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Unique within a study."""
        return f"{self.method} {self.text}"

    @property
    def is_default(self) -> bool:
        """Whether it is what the method has in `methods`."""
        return self.cells[0].experiment.name == self.method


Numbers = dict[tuple[str, str], tuple[float, float]]
"""Mean and standard deviation by name of the setting and metric; NaN where there is none."""


def draw(settings: AblationFigure, params: Params, runs: pd.DataFrame, cells: Sequence[Cell]) -> Figure:
    """The figure of `settings`; call it inside `style()`.

    Args:
        settings: Of which study, methods and metrics.
        params: What labels are taken from.
        runs: As `finished_runs` gives them for the cells.
        cells: Of the study; those of other studies and methods are left out.

    Raises:
        RequestError: the study varies none of the methods.
    """
    points = _points(settings, cells)
    if not points:
        varied = list(dict.fromkeys(cell.method for cell in cells if cell.study == settings.study))
        raise RequestError(
            f"study '{settings.study}' varies none of {', '.join(settings.methods or [])}. Valid: {', '.join(varied)}"
        )
    experiments = {point.name: {cell.experiment.seed: cell.experiment for cell in point.cells} for point in points}
    frame = measure(experiments, [axis.metric for axis in settings.metrics], runs)
    numbers = {(row["name"], row["metric"]): (row["mean"], row["std"]) for _, row in frame.iterrows()}
    if all(point.value is not None for point in points):
        return _draw_curves(settings, params, points, numbers)
    return _draw_rows(settings, params, points, numbers)


def _points(settings: AblationFigure, cells: Sequence[Cell]) -> list[Setting]:
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.study == settings.study and (settings.methods is None or cell.method in settings.methods):
            found.setdefault((cell.method, cell.setting), []).append(cell)
    return [Setting(method, text, of[0].value, tuple(of)) for (method, text), of in found.items()]


def _by_method(points: Sequence[Setting]) -> dict[str, list[Setting]]:
    methods = dict.fromkeys(point.method for point in points)
    return {method: [point for point in points if point.method == method] for method in methods}


def _draw_curves(settings: AblationFigure, params: Params, points: list[Setting], numbers: Numbers) -> Figure:
    """A panel per metric, one above the other; a curve per method."""
    figure = new_figure(COLUMN_WIDTH, 0.8 + 1.05 * len(settings.metrics))
    panels: list[Axes] = figure.subplots(len(settings.metrics), sharex=True, squeeze=False)[:, 0].tolist()
    methods = _by_method(points)
    for axes, metric in zip(panels, settings.metrics, strict=True):
        for (method, own), look in zip(methods.items(), looks(methods).values(), strict=True):
            values = [float(point.value or 0) for point in own]
            means, stds = zip(*(numbers[point.name, metric.metric] for point in own), strict=True)
            label = figure_text(params.methods[method].label)
            axes.errorbar(values, means, stds, **look.curve, label=label)
            missing = [value for value, mean in zip(values, means, strict=True) if math.isnan(mean)]
            mark_missing(axes, missing, [0.05] * len(missing), axes.get_xaxis_transform())
        axes.set_ylabel(figure_text(metric.label))
        for value in {point.value for point in points if point.is_default}:
            axes.axvline(float(value or 0), color="#c9c9c9", linewidth=3, zorder=0, gid="default")
    texts = {float(point.value or 0): point.text.rpartition("= ")[2] for point in points}
    ticks = sorted(texts)[:: math.ceil(len(texts) / MOST_TICKS)]
    panels[-1].set_xticks(ticks, [texts[tick] for tick in ticks])
    panels[-1].set_xlabel(figure_text(params.ablation.studies[settings.study].label))
    _explain(figure, numbers, "Grey band: the setting in the tables." if _has_default(points) else "")
    figure.align_ylabels(panels)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, columnspacing=1.2)
    return figure


def _draw_rows(settings: AblationFigure, params: Params, points: list[Setting], numbers: Numbers) -> Figure:
    """A column per metric, each with its own scale; a row per setting, the methods one above the other."""
    methods = _by_method(points)
    schedules = isinstance(params.ablation.studies[settings.study], FirstRatioStudy)
    varied = looks(point.text for point in points) if schedules else looks(methods)
    heights = [1.1] * schedules + [ROW * (len(own) + 0.6) for own in methods.values()]
    figure = new_figure(COLUMN_WIDTH, 0.85 + 0.18 * len(methods) + sum(heights))
    grid = figure.add_gridspec(len(heights), len(settings.metrics), height_ratios=heights)
    if schedules:
        _draw_schedules(figure.add_subplot(grid[0, :]), next(iter(methods.values())), varied)
    panels: list[Axes] = []
    shared: dict[int, Axes] = {}
    for row, (method, own) in enumerate(methods.items(), start=schedules):
        for column, metric in enumerate(settings.metrics):
            axes = figure.add_subplot(grid[row, column], sharex=shared.get(column))
            shared.setdefault(column, axes)
            panels.append(axes)
            chosen = [varied[point.text if schedules else method] for point in own]
            _draw_column(axes, own, [numbers[point.name, metric.metric] for point in own], chosen)
            axes.tick_params(labelleft=column == 0, labelbottom=row == len(heights) - 1)
            axes.set_xlabel(figure_text(metric.label) if row == len(heights) - 1 else "")
        panels[-len(settings.metrics)].set_title(figure_text(params.methods[method].label), loc="left", pad=3)
    _explain(figure, numbers, "Bold: the setting in the tables." if _has_default(points) else "")
    return figure


def _draw_column(axes: Axes, own: list[Setting], numbers: list[tuple[float, float]], chosen: list[Look]) -> None:
    """The settings of one method under one metric, the first at the top."""
    for row, ((mean, std), look) in enumerate(zip(numbers, chosen, strict=True)):
        axes.errorbar([mean], [row], xerr=[std], fmt=look.marker, color=look.colour, elinewidth=0.8, gid="point")
    missing = [row for row, (mean, _) in enumerate(numbers) if math.isnan(mean)]
    mark_missing(axes, [0.05] * len(missing), missing, axes.get_yaxis_transform())
    axes.set(ylim=(len(own) - 0.4, -0.6))
    axes.set_yticks(range(len(own)), [figure_text(point.text) for point in own])
    for label, point in zip(axes.get_yticklabels(), own, strict=True):
        label.set_fontweight("bold" if point.is_default else "normal")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.margins(x=0.15)


def _draw_schedules(axes: Axes, own: list[Setting], varied: dict[str, Look]) -> None:
    """gamma_1 of every setting over the epochs."""
    for point in own:
        mixture = point.cells[0].experiment.method.mixture
        if isinstance(mixture, MovingAverageSettings):
            ratios, look = next(iter(mixture.mixing_ratios.values())), varied[point.text]
            axes.plot(mixture.breakpoints, ratios, **look.curve, label=figure_text(point.text), clip_on=False)
    axes.set(xlabel="epoch", ylabel=r"mixing ratio $\gamma_1$", ylim=(-0.06, 1.06), yticks=[0, 0.5, 1])
    axes.margins(x=0.02)
    side_by_side = 3 if len(own) <= 3 and max(len(point.text) for point in own) <= SHORT_LABEL else 2
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=side_by_side, columnspacing=1)


def mark_missing(axes: Axes, x: Sequence[float], y: Sequence[float], transform: Transform) -> None:
    """Grey crosses where numbers are not there; `transform` says what the coordinates are of."""
    if len(x):
        axes.plot(
            x, y, "x", color=MISSING, markersize=4, markeredgewidth=1, transform=transform, clip_on=False, gid="missing"
        )


def _has_default(points: Sequence[Setting]) -> bool:
    return any(point.is_default for point in points)


def _explain(figure: Figure, numbers: Numbers, remark: str) -> None:
    """Say below the axes what the marks mean."""
    missing = MISSING_NOTE if any(math.isnan(mean) for mean, _ in numbers.values()) else ""
    several = any(not math.isnan(std) for _, std in numbers.values())
    bars = "Bars: standard deviation over seeds." if several else ""
    note_below(figure, " ".join(filter(None, [remark, bars, missing])))
