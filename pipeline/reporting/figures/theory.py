"""What the papers' theorems speak of, over the epochs: regret, geometric term, cosines of gradients, barriers."""

from __future__ import annotations

from itertools import combinations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config import Params
from pipeline.reporting.figure_kinds.theory import TheoryFigure
from pipeline.reporting.figures.training_curves import Curves, draw_curves, read_curves
from pipeline.reporting.results import latest_runs
from pipeline.reporting.style import COLUMN_WIDTH, MISSING_TEXT, learner_looks, new_figure, note_below

PANEL_HEIGHT = 1.15
MEAN = "mean"
"""Over the tasks: R_T of Definition 1, in black."""


def draw(settings: TheoryFigure, params: Params, runs: pd.DataFrame) -> Figure:
    """The figure of `settings` from the frame that `finished_runs` gives; call it inside `style()`.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.read_histories`.
    """
    experiments = [params.experiment(settings.method, seed) for seed in params.seeds]
    curves = read_curves(latest_runs(experiments, runs).values())
    tasks = list(experiments[0].method.learners)
    pairs = {f"{first}, {second}": f"theory/cosine/{first}/{second}" for first, second in combinations(tasks, 2)}
    drawn = {
        r"regret $R_T / T$": {task: f"theory/regret/{task}" for task in tasks} | {MEAN: "theory/trade_off_regret"},
        "geometric\nterm": {
            "previous iterate": "theorem_2/previous_iterate",
            "last restart": "theorem_2/last_restart",
            "learners' spread": "theorem_2/learner_spread",
        },
        "cosine, of\ntasks": pairs,
        "cosine, of\nminibatches": {task: f"theory/minibatch_cosine/{task}" for task in tasks},
        "loss barrier\nto global": {task: f"theory/barrier/{task}" for task in tasks},
    }
    figure = new_figure(COLUMN_WIDTH, 0.5 + len(drawn) * PANEL_HEIGHT)
    panels: list[Axes] = figure.subplots(len(drawn), sharex=True).tolist()
    for axes, (label, columns) in zip(panels, drawn.items(), strict=True):
        _fill(axes, curves, columns)
        axes.set_ylabel(label)
    panels[-1].set(xlabel="epoch", xlim=(0, 1.015 * experiments[0].training.epochs))
    figure.align_ylabels(panels)
    note_below(figure, f"Error probabilities on held-out images.{curves.seeds_note}" if curves.runs else "")
    return figure


def _fill(axes: Axes, curves: Curves, columns: dict[str, str]) -> None:
    """The curves of one panel with their legend, or that there are none."""
    if not curves.measured(columns):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=MISSING_TEXT)
        return
    black, *own = learner_looks(name for name in columns if name != MEAN).items()
    draw_curves(axes, curves, columns, {MEAN: black[1], **dict(own)})
    axes.legend(fontsize="x-small", ncols=2, loc="best")
