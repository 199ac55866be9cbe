"""Accuracies of the learners over the epochs, with the mixing ratios and the redistributions."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.config import Experiment, Params, TrainingCurvesFigure
from pipeline.reporting.results import latest_runs
from pipeline.reporting.style import (
    COLUMN_WIDTH,
    MISSING_TEXT,
    REDISTRIBUTION,
    Look,
    learner_looks,
    new_figure,
    note_below,
)
from pipeline.tracking import read_histories

METRICS = {
    "natural": "natural",
    "pgd_linf": r"PGD $\ell_\infty$",
    "pgd_l2": r"PGD $\ell_2$",
    "pgd_l1": r"PGD $\ell_1$",
}

History = dict[str, pd.DataFrame]
"""`mean`, `std` and `count` over runs, a row per epoch."""


def draw(settings: TrainingCurvesFigure, params: Params, runs: pd.DataFrame) -> Figure:
    """The figure of `settings` from the frame that `finished_runs` gives; call it inside `style()`.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.read_histories`.
    """
    experiments = [params.experiment(settings.method, seed) for seed in params.seeds]
    history = over_seeds(list(read_histories(latest_runs(experiments, runs).values()).values()))
    split = "test" if params.training.selection.split == "test" else "held_out"
    learners = _learners(experiments[0])
    shown = [metric for metric in METRICS if f"{split}/global/{metric}" in history["mean"]]
    ratios = any(str(column).startswith("mixing_ratio/") for column in history["mean"])
    count = max(len(shown), 1)
    figure = new_figure(COLUMN_WIDTH, 0.7 + 0.95 * count + 0.7 * ratios)
    heights = [1.0] * count + [0.7] * ratios
    panels: list[Axes] = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0].tolist()
    for axes, metric in zip(panels, shown, strict=False):
        draw_curves(axes, history, {name: f"{split}/{name}/{metric}" for name in learners}, learners, scale=100)
        axes.set_ylabel(f"{METRICS[metric]} (%)")
    if ratios:
        draw_curves(panels[-1], history, {name: f"mixing_ratio/{name}" for name in learners}, learners)
        panels[-1].set(ylabel=r"mixing ratio $\gamma$", ylim=(-0.06, 1.06), yticks=[0, 0.5, 1])
    if shown:
        _finish(figure, panels, history["mean"], learners, params, settings.method)
        images = "test" if split == "test" else "held-out"
        note_below(figure, f"Accuracies on {images} images.{seeds_note(history)}")
    else:
        panels[0].text(0.5, 0.5, "not measured", transform=panels[0].transAxes, ha="center", color=MISSING_TEXT)
    panels[-1].set(xlabel="epoch", xlim=(0, 1.015 * experiments[0].training.epochs))
    return figure


def over_seeds(histories: Sequence[pd.DataFrame]) -> History:
    """Mean and standard deviation (NaN with one seed) over runs: a row per epoch, the columns of the histories."""
    if not histories:
        return {"mean": pd.DataFrame(), "std": pd.DataFrame(), "count": pd.DataFrame()}
    epochs = pd.concat(histories).groupby("epoch")
    return {"mean": epochs.mean(), "std": epochs.std(), "count": epochs.size().to_frame("runs")}


def seeds_note(history: History) -> str:
    """What to say of several seeds below a figure; nothing of one."""
    runs = int(history["count"]["runs"].max())
    return f" Mean and standard deviation of {runs} seeds." if runs > 1 else ""


def _learners(experiment: Experiment) -> dict[str, Look]:
    """The learners whose curves are drawn: where the only one is the result itself, the result."""
    method = experiment.method
    own = list(method.learners)
    if method.mixture is None and method.learners[own[0]].weight_averaging is None:
        own = []
    return learner_looks(own)


def draw_curves(
    axes: Axes, history: History, columns: dict[str, str], learners: dict[str, Look], scale: float = 1
) -> None:
    """Mean and standard deviation of `columns` of the histories, by the name whose look they have."""
    for name, column in columns.items():
        if column not in history["mean"]:
            continue
        mean, std = (scale * history[part][column].dropna() for part in ("mean", "std"))
        look = learners[name]
        width = 1.6 if name == "global" else 1.0
        axes.plot(mean.index, mean, **look.curve, linewidth=width, markevery=0.13, markersize=3, label=name)
        low, high = mean[std.index] - std, mean[std.index] + std
        axes.fill_between(std.index, low, high, color=look.colour, alpha=0.2, linewidth=0)


def _finish(
    figure: Figure, panels: list[Axes], mean: pd.DataFrame, learners: dict[str, Look], params: Params, method: str
) -> None:
    """Redistributions through all panels, and the legend above them."""
    handles = [Line2D([], [], **look.curve, markersize=3, label=name) for name, look in learners.items()]
    handles[0].set_label("global learner" if params.methods[method].mixture else "result")
    redistributed = mean.index[mean["redistributed"] > 0].tolist() if "redistributed" in mean else []
    for epoch in redistributed:
        for axes in panels:
            axes.axvline(epoch, zorder=0.5, gid="redistribution", **REDISTRIBUTION)
    if redistributed:
        handles.append(Line2D([], [], label="redistribution", **REDISTRIBUTION))
    figure.align_ylabels(panels)
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.2)
