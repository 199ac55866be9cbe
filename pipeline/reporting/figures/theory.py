"""What the papers' theorems speak of, over the epochs: regret, geometric term, cosines of gradients, barriers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind, NothingToShow
from pipeline.reporting.figures.training_curves import draw_curves, read_curves
from pipeline.reporting.style import COLUMN_WIDTH, learner_looks, new_figure, note_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_HEIGHT = 1.25
MEAN = "mean"
"""Over the tasks: R_T of Definition 1, in black."""


class TheoryFigure(FigureSettings):
    """Regrets, geometric term, cosines of gradients and loss barriers of a method over the epochs."""

    kind: Literal["theory"]
    method: str

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "method", self.method

    @override
    def draw(self, source: FigureSource) -> Figure:
        """Raises as `pipeline.tracking.read_histories`."""
        experiment = source.params.experiment(self.method, source.params.seeds[0])
        curves = read_curves(source, self.method)
        columns_of = _columns(list(experiment.method.learners))
        drawn = {label: columns for label, columns in columns_of.items() if curves.measured(columns)}
        if not drawn:
            raise NothingToShow(f"no run of {self.method} measured the theorems' terms (`training.theory`)")
        figure = new_figure(COLUMN_WIDTH, 0.5 + len(drawn) * PANEL_HEIGHT)
        panels: list[Axes] = figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0].tolist()
        for axes, (label, columns) in zip(panels, drawn.items(), strict=True):
            axes.set_ylabel(label)
            looks = learner_looks(name for name in columns if name != MEAN)
            draw_curves(axes, curves, columns, looks | {MEAN: looks["global"]})
            axes.legend(fontsize="x-small", ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        panels[-1].set(xlabel="epoch", xlim=(0, 1.015 * experiment.training.epochs))
        figure.align_ylabels(panels)
        missing = [" ".join(label.split()) for label in columns_of if label not in drawn]
        remark = f"Error probabilities on held-out images.{curves.seeds_note}"
        note_below(figure, f"{remark} Not measured: {'; '.join(missing)}." if missing else remark)
        return figure


def _columns(tasks: list[str]) -> dict[str, dict[str, str]]:
    """By label of a panel, the columns of the histories by the name of their curve."""
    return {
        r"regret $R_T / T$": {task: f"theory/regret/{task}" for task in tasks} | {MEAN: "theory/trade_off_regret"},
        "geometric\nterm": {
            "previous iterate": "theorem_2/previous_iterate",
            "last restart": "theorem_2/last_restart",
            "learners' spread": "theorem_2/learner_spread",
        },
        "cosine, of\ntasks": {", ".join(pair): "theory/cosine/" + "/".join(pair) for pair in combinations(tasks, 2)},
        "cosine, of\nminibatches": {task: f"theory/minibatch_cosine/{task}" for task in tasks},
        "loss barrier\nto global": {task: f"theory/barrier/{task}" for task in tasks},
    }


FIGURE = TheoryFigure
