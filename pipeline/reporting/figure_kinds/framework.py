"""The framework as a method resolves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FrameworkFigure(FigureSettings):
    """The learners, the mixture and the schedule of a method with the mixture `moving_average`."""

    kind: Literal["framework"]
    method: str

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "method", self.method

    @property
    @override
    def methods_shown(self) -> list[str]:
        return []  # drawn from the settings alone

    @override
    def coverage(self, source: FigureSource, measured: int, shown: int) -> list[int]:
        return [1, 1]

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import framework

        return framework.draw(self, source.params)


FIGURE = FrameworkFigure
