"""What the papers' theorems speak of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TheoryFigure(FigureSettings):
    """Regrets, geometric term, cosines of gradients and loss barriers of a method over the epochs."""

    kind: Literal["theory"]
    method: str

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "method", self.method

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import theory

        return theory.draw(self, source.params, source.runs)


FIGURE = TheoryFigure
