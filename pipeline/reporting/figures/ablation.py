"""A study of the ablation grid: curves where it varies a number, rows of points where it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from typing_extensions import override

from pipeline.config.figures import Axis, FigureSource, Kind, StudyFigure
from pipeline.config.metrics import metric_named
from pipeline.config.mixtures.moving_average import MovingAverageSettings
from pipeline.config.studies import FirstRatioStudy
from pipeline.reporting.style import (
    COLUMN_WIDTH,
    MISSING_NOTE,
    ROW,
    Look,
    bars_note,
    figure_text,
    keep_percentages,
    legend_above,
    looks,
    mark_missing,
    method_looks,
    new_figure,
    note_below,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.config.params import Params
    from pipeline.studies.cells import Cell

MOST_TICKS = 11
SHORT_LABEL = 10
"""Letters of a label of which three stand side by side in a column."""


@dataclass(frozen=True)
class Setting:
    """One setting of one method: its experiments with all seeds are one point."""

    text: str
    value: float | None
    numbers: dict[str, tuple[float, float, float]]
    """Mean by metric, and how far its error bar reaches below and above; NaN where there is none."""
    cell: Cell
    """That of the first seed."""
    is_default: bool
    """Whether it is what the method has in `methods`."""


class AblationFigure(StudyFigure):
    """What a study of the ablation grid varies, against metrics."""

    kind: Literal["ablation"]
    metrics: Annotated[list[Axis], Field(min_length=1)]

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield from super().names()
        yield from (("metric", axis.metric) for axis in self.metrics)

    @override
    def draw(self, source: FigureSource) -> Figure:
        methods = self._settings(source)
        drawn = [setting for own in methods.values() for setting in own]
        numbered = all(setting.value is not None for setting in drawn)
        figure = (self._draw_curves if numbered else self._draw_rows)(source.params, methods)
        numbers = [number for setting in drawn for number in setting.numbers.values()]
        default = "Grey band: the setting in the tables." if numbered else "Bold: the setting in the tables."
        remarks = [
            default if any(setting.is_default for setting in drawn) else "",
            bars_note(len(source.params.seeds)) if any(below == below for _, below, _ in numbers) else "",
            MISSING_NOTE if any(math.isnan(mean) for mean, *_ in numbers) else "",
        ]
        note_below(figure, " ".join(filter(None, remarks)))
        return figure

    def _settings(self, source: FigureSource) -> dict[str, list[Setting]]:
        """What is drawn, by method, in the order of the study."""
        from pipeline.reporting.results import measure

        found: dict[str, list[Cell]] = {}
        for cell in source.grid:
            if cell.study == self.study and (self.methods is None or cell.method in self.methods):
                found.setdefault(f"{cell.method} {cell.setting}", []).append(cell)
        experiments = {name: {cell.experiment.seed: cell.experiment for cell in own} for name, own in found.items()}
        frame = measure(experiments, [axis.metric for axis in self.metrics], source.runs)
        methods: dict[str, list[Setting]] = {}
        for name, (first, *_) in found.items():
            own = frame[frame["name"] == name]
            reach = zip(own["mean"], own["below"], own["above"], strict=True)
            numbers = dict(zip(own["metric"], reach, strict=True))
            is_default = first.experiment.name == first.method
            setting = Setting(first.setting, first.value, numbers, first, is_default)
            methods.setdefault(first.method, []).append(setting)
        return methods

    def _draw_curves(self, params: Params, methods: dict[str, list[Setting]]) -> Figure:
        """A panel per metric, one above the other; a curve per method."""
        figure = new_figure(COLUMN_WIDTH, 0.8 + 1.05 * len(self.metrics))
        panels: list[Axes] = figure.subplots(len(self.metrics), sharex=True, squeeze=False)[:, 0].tolist()
        drawn = [setting for own in methods.values() for setting in own]
        chosen = method_looks(params)
        for axes, metric in zip(panels, self.metrics, strict=True):
            percent = metric_named(metric.metric).is_accuracy
            for method, own in methods.items():
                values = [setting.value or 0 for setting in own]
                means, *reach = zip(*(setting.numbers[metric.metric] for setting in own), strict=True)
                options = chosen[method].curve | {"label": figure_text(params.methods[method].label), "clip_on": False}
                axes.errorbar(values, means, reach, **options, elinewidth=0.7)
                mark_missing(axes, [one for one, mean in zip(values, means, strict=True) if math.isnan(mean)], "x")
            if percent:
                keep_percentages(axes, "y")
            axes.set_ylabel(figure_text(metric.label))
            for value in {setting.value or 0 for setting in drawn if setting.is_default}:
                axes.axvline(value, color="#c9c9c9", linewidth=3, zorder=0, gid="default")
        texts = {setting.value or 0: setting.text.rpartition("= ")[2] for setting in drawn}
        ticks = sorted(texts)[:: math.ceil(len(texts) / MOST_TICKS)]
        panels[-1].set_xticks(ticks, [texts[tick] for tick in ticks])
        panels[-1].set_xlabel(figure_text(params.ablation.studies[self.study].label))
        figure.align_ylabels(panels)
        legend_above(figure, panels[0].get_legend_handles_labels()[0])
        return figure

    def _draw_rows(self, params: Params, methods: dict[str, list[Setting]]) -> Figure:
        """A column per metric, each with its own scale; a row per setting, the methods one above the other."""
        schedules = isinstance(params.ablation.studies[self.study], FirstRatioStudy)
        texts = [setting.text for own in methods.values() for setting in own]
        varied = looks(texts) if schedules else method_looks(params)
        heights = [1.1] * schedules + [ROW * (len(own) + 0.6) for own in methods.values()]
        figure = new_figure(COLUMN_WIDTH, 0.85 + 0.18 * len(methods) + sum(heights))
        grid = figure.add_gridspec(len(heights), len(self.metrics), height_ratios=heights)
        if schedules:
            _draw_schedules(figure.add_subplot(grid[0, :]), next(iter(methods.values())), varied)
        for column, metric in enumerate(self.metrics):
            above: Axes | None = None
            for row, (method, own) in enumerate(methods.items(), start=schedules):
                axes = above = figure.add_subplot(grid[row, column], sharex=above)
                chosen = [varied[setting.text if schedules else method] for setting in own]
                _draw_column(axes, own, metric.metric, chosen)
                last = row == len(heights) - 1
                axes.tick_params(labelleft=column == 0, labelbottom=last)
                axes.set_xlabel(figure_text(metric.label) if last else "")
                if column == 0:
                    axes.set_title(figure_text(params.methods[method].label), loc="left", pad=3)
            if above and metric_named(metric.metric).is_accuracy:
                keep_percentages(above, "x")
        return figure


def _draw_column(axes: Axes, own: list[Setting], metric: str, chosen: list[Look]) -> None:
    """The settings of one method under one metric, the first at the top."""
    numbers = [setting.numbers[metric] for setting in own]
    for row, ((mean, below, above), look) in enumerate(zip(numbers, chosen, strict=True)):
        bar: dict[str, Any] = look.point | {"elinewidth": 0.8, "gid": "point", "clip_on": False}
        axes.errorbar([mean], [row], xerr=[[below], [above]], **bar)
    mark_missing(axes, [row for row, (mean, *_) in enumerate(numbers) if math.isnan(mean)], "y")
    axes.set(ylim=(len(own) - 0.4, -0.6))
    axes.set_yticks(range(len(own)), [figure_text(setting.text) for setting in own])
    for label, setting in zip(axes.get_yticklabels(), own, strict=True):
        label.set_fontweight("bold" if setting.is_default else "normal")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=3)
    axes.margins(x=0.15)


def _draw_schedules(axes: Axes, own: list[Setting], varied: dict[str, Look]) -> None:
    """gamma_1 of every setting over the epochs."""
    for setting in own:
        mixture = setting.cell.experiment.method.mixture
        if isinstance(mixture, MovingAverageSettings):
            ratios, look = next(iter(mixture.mixing_ratios.values())), varied[setting.text]
            axes.plot(mixture.breakpoints, ratios, **look.curve, label=figure_text(setting.text), clip_on=False)
    axes.set(xlabel="epoch", ylabel=r"mixing ratio $\gamma_1$", ylim=(-0.06, 1.06), yticks=[0, 0.5, 1])
    axes.margins(x=0.02)
    side_by_side = 3 if len(own) <= 3 and max(len(setting.text) for setting in own) <= SHORT_LABEL else 2
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=side_by_side, columnspacing=1)


FIGURE = AblationFigure
