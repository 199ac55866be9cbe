"""The trials of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ParetoFigure(FigureSettings):
    """Every trial of the search between its two objectives, and the frontier of those that no other one beats."""

    is_study: ClassVar[bool] = True
    kind: Literal["pareto"]

    @override
    def coverage(self, source: FigureSource, measured: int, shown: int) -> list[int]:
        """How many trials are measured, and of how many."""
        from pipeline.reporting.figures import pareto
        from pipeline.studies.trials import Search

        search = Search.of(source.params)
        return [len(pareto.trials_of(search)), search.settings.trials]

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import pareto

        return pareto.draw(source.params)


FIGURE = ParetoFigure
