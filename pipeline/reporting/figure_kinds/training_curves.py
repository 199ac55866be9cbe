"""Accuracies and losses over the epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TrainingCurvesFigure(FigureSettings):
    """Accuracies of all learners of a method over the epochs, above the mixing ratios and the redistributions."""

    kind: Literal["training_curves"]
    method: str

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "method", self.method

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import training_curves

        return training_curves.draw(self, source.params, source.runs)


FIGURE = TrainingCurvesFigure
