"""Accuracies and losses of the learners over the epochs, with the mixing ratios and the redistributions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind, NothingToShow
from pipeline.reporting.style import (
    COLUMN_WIDTH,
    REDISTRIBUTION,
    Look,
    deviations,
    keep_percentages,
    learner_looks,
    legend_above,
    new_figure,
    note_below,
    say_missing,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.config.experiment import Experiment

METRICS = {
    "natural": "natural",
    "pgd_linf": r"PGD $\ell_\infty$",
    "pgd_l2": r"PGD $\ell_2$",
    "pgd_l1": r"PGD $\ell_1$",
}
ALL_MARKED = 8
"""A curve of at most so many points has a marker at each; by distance, a single point would have none."""


@dataclass(frozen=True)
class Row:
    """What the panels side by side show."""

    label: str
    column: str
    """A column of the histories, with `{split}` and `{learner}` to be filled in."""
    scale: float
    height: float


LOSS = Row("training loss", "loss/{learner}", 1, 0.7)
RATIO = Row(r"mixing ratio $\gamma$", "mixing_ratio/{learner}", 1, 0.7)


class TrainingCurvesFigure(FigureSettings):
    """Accuracies of all learners of a method over the epochs, above the mixing ratios and the redistributions."""

    kind: Literal["training_curves"]
    method: str

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "method", self.method

    @override
    def draw(self, source: FigureSource) -> Figure:
        """Raises as `pipeline.tracking.read_histories`."""
        curves = read_curves(source, self.method)
        if not curves.metrics:
            raise NothingToShow(f"no run of {self.method} has accuracies by epoch; '{self.command}' trains it")
        figure, _ = draw_columns(COLUMN_WIDTH, [curves], source.params.experiment(self.method, source.params.seeds[0]))
        note_below(figure, f"Accuracies on {curves.images} images.{curves.seeds_note}")
        return figure


@dataclass(frozen=True)
class Curves:
    """The training of one experiment over its seeds."""

    mean: pd.DataFrame
    """A row per epoch, the columns of the histories; empty where there is no run."""
    std: pd.DataFrame
    """The same of the standard deviation; NaN with one seed."""
    runs: int
    """How many there are."""

    @classmethod
    def read(cls, run_ids: Iterable[str]) -> Curves:
        """The training of runs that differ in their seeds. Raises as `pipeline.tracking.read_histories`."""
        import pandas as pd

        from pipeline.tracking import read_histories

        histories = list(read_histories(run_ids).values())
        if not histories:
            return cls(pd.DataFrame(), pd.DataFrame(), 0)
        epochs = pd.concat(histories).groupby("epoch")
        return cls(epochs.mean(), epochs.std(), len(histories))

    @property
    def split(self) -> str:
        """Which images accuracies are of, as the columns have it."""
        return "test" if any(str(column).startswith("test/") for column in self.mean) else "held_out"

    @property
    def images(self) -> str:
        """The same in words."""
        return self.split.replace("_", "-")

    @property
    def metrics(self) -> list[str]:
        """What was measured of the result."""
        return [metric for metric in METRICS if f"{self.split}/global/{metric}" in self.mean]

    def measured(self, columns: Mapping[str, str]) -> dict[str, str]:
        """The entries of `columns`, by whatever name, that the histories have."""
        return {name: column for name, column in columns.items() if column in self.mean}

    def columns(self, row: Row, learners: Iterable[str]) -> dict[str, str]:
        """The columns of the histories, by learner where there is one."""
        return self.measured({name: row.column.format(split=self.split, learner=name) for name in learners})

    @property
    def seeds_note(self) -> str:
        """What to say of several seeds below a figure; nothing of one."""
        return f" Mean and standard deviation of {self.runs} seeds." if self.runs > 1 else ""

    @property
    def redistributed(self) -> list[int]:
        """The epochs in which the learners restarted from the global learner."""
        return self.mean.index[self.mean["redistributed"] > 0].tolist() if "redistributed" in self.mean else []


def read_curves(source: FigureSource, method: str) -> Curves:
    """The training of a method of the file. Raises as `pipeline.tracking.read_histories`."""
    from pipeline.reporting.results import latest_runs

    experiments = [source.params.experiment(method, seed) for seed in source.params.seeds]
    return Curves.read(latest_runs(experiments, source.runs).values())


def draw_columns(width: float, columns: Sequence[Curves], experiment: Experiment) -> tuple[Figure, list[list[Axes]]]:
    """A column for each of `columns`, a panel for each metric that one of them has, for losses and for mixing ratios.

    Args:
        width: Of the figure, inches.
        columns: One that is empty says that it is not measured.
        experiment: Whose learners are drawn.

    Returns:
        The figure, and the panels of each column from above.
    """
    learners = learners_of(experiment)
    shown = [metric for metric in METRICS if any(metric in curves.metrics for curves in columns)]
    rows = [Row(f"{METRICS[metric]} (%)", f"{{split}}/{{learner}}/{metric}", 100, 1.0) for metric in shown]
    rows += [row for row in (LOSS, RATIO) if any(curves.columns(row, learners) for curves in columns)]
    heights = [row.height for row in rows] or [1.0]
    figure = new_figure(width, 0.7 + sum(heights))
    grid = figure.subplots(len(heights), len(columns), sharex="col", sharey="row", squeeze=False, height_ratios=heights)
    panels: list[list[Axes]] = grid.T.tolist()
    for of_column, curves in zip(panels, columns, strict=True):
        _draw_column(of_column, curves, rows, learners)
        of_column[-1].set(xlabel="epoch", xlim=(0, 1.015 * max([experiment.training.epochs, *curves.mean.index])))
    for axes, row in zip(panels[0], rows, strict=False):
        axes.set_ylabel(row.label)
        if row is RATIO:
            axes.set(ylim=(-0.06, 1.06), yticks=[0, 0.5, 1])
        elif row is not LOSS:
            keep_percentages(axes, "y")
    figure.align_ylabels(panels[0])
    if shown:
        _add_legend(figure, columns, learners, experiment)
    return figure, panels


def learners_of(experiment: Experiment) -> dict[str, Look]:
    """The learners whose curves are drawn: where the only one is the result itself, the result."""
    method = experiment.method
    own = list(method.learners)
    if method.mixture is None and method.learners[own[0]].weight_averaging is None:
        own = []
    return learner_looks(own)


def _draw_column(panels: list[Axes], curves: Curves, rows: list[Row], learners: dict[str, Look]) -> None:
    for axes, row in zip(panels, rows, strict=False):
        draw_curves(axes, curves, curves.columns(row, learners), learners, row.scale)
    for epoch in curves.redistributed if curves.metrics else []:
        for axes in panels:
            axes.axvline(epoch, zorder=0.5, gid="redistribution", **REDISTRIBUTION)
    if not curves.metrics:
        say_missing(panels[0])


def draw_curves(
    axes: Axes, curves: Curves, columns: dict[str, str], learners: dict[str, Look], scale: float = 1
) -> None:
    """Mean and standard deviation of `columns` of the histories, by the name whose look they have.

    Args:
        axes: Where.
        curves: What.
        columns: Those that the histories lack are left out.
        learners: The looks.
        scale: What values are multiplied by; 100 of accuracies, whose bands end at 0 and 100.
    """
    for name, column in curves.measured(columns).items():
        look = learners[name]
        mean, std = (scale * part[column].dropna() for part in (curves.mean, curves.std))
        marked = 1 if len(mean) <= ALL_MARKED else 0.13
        options = look.curve | {"linewidth": 1.6 if name == "global" else 1.0, "markevery": marked, "markersize": 3}
        axes.plot(mean.index, mean, **options, label=name, clip_on=False)
        below, above = deviations(mean[std.index], std, percent=scale == 100)
        low, high = mean[std.index] - below, mean[std.index] + above
        axes.fill_between(std.index, low, high, color=look.colour, alpha=0.2, linewidth=0)


def _add_legend(figure: Figure, columns: Sequence[Curves], learners: dict[str, Look], experiment: Experiment) -> None:
    """Which curve is whose, above the panels."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **look.curve, markersize=3, label=name) for name, look in learners.items()]
    handles[0].set_label("global learner" if experiment.method.mixture else "result")
    if any(curves.redistributed for curves in columns):
        handles.append(Line2D([], [], label="redistribution", **REDISTRIBUTION))
    legend_above(figure, handles, 3 * len(columns))


FIGURE = TrainingCurvesFigure
