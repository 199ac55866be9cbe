"""The training of one method under several protocols, side by side."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config import Experiment, Params
from pipeline.reporting.figure_kinds.protocols import ProtocolsFigure
from pipeline.reporting.figures.training_curves import Curves, add_legend, draw_columns, learners_of, read_curves
from pipeline.reporting.results import latest_runs
from pipeline.reporting.style import PAGE_WIDTH, note_below
from pipeline.tracking import runs_of_other_protocols


def draw(settings: ProtocolsFigure, params: Params, runs: pd.DataFrame) -> Figure:
    """The figure of `settings` from the frame that `finished_runs` gives; call it inside `style()`.

    Runs of other protocols than the file's are those of the same method, seeds, data and network; of several with one
    seed, the last that finished.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.read_histories`.
    """
    experiments = [params.experiment(settings.method, seed) for seed in params.seeds]
    others = runs_of_other_protocols(experiments)
    columns = [_curves(protocol, experiments, runs, others) for protocol in settings.protocols]
    learners = learners_of(experiments[0])
    figure, panels = draw_columns(PAGE_WIDTH, columns, learners)
    for protocol, of_column, curves in zip(settings.protocols, panels, columns, strict=True):
        of_column[0].set_title(protocol.replace("_", " "))
        of_column[-1].set(xlim=(0, 1.015 * max([experiments[0].training.epochs, *curves.mean.index])))
    add_legend(figure, columns, learners, experiments[0])
    note_below(figure, " ".join(map(_remark, settings.protocols, columns)))
    return figure


def _curves(protocol: str, experiments: list[Experiment], runs: pd.DataFrame, others: pd.DataFrame) -> Curves:
    if protocol == experiments[0].protocol:
        return read_curves(latest_runs(experiments, runs).values())
    found = others[others["protocol"] == protocol].drop_duplicates("seed", keep="last")
    return read_curves(found["run_id"])


def _remark(protocol: str, curves: Curves) -> str:
    name = protocol.replace("_", " ")
    if not curves.runs:
        return f"Protocol {name}: not measured."
    seeds = "1 seed" if curves.runs == 1 else f"mean and standard deviation of {curves.runs} seeds"
    return f"Protocol {name}: accuracies on {curves.images} images, {seeds}."
