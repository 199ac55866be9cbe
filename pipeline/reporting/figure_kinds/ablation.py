"""A study of the ablation grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from pipeline.config.figures import Axis, FigureSettings, FigureSource, Kind, Methods

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AblationFigure(FigureSettings):
    """What a study of the ablation grid varies, against metrics."""

    is_study: ClassVar[bool] = True
    kind: Literal["ablation"]
    study: str
    methods: Methods | None = None
    """The study's methods that are drawn (null: all)."""
    metrics: Annotated[list[Axis], Field(min_length=1)]

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "study", self.study
        yield from (("method", method) for method in self.methods or [])
        yield from (("metric", axis.metric) for axis in self.metrics)

    @property
    @override
    def methods_shown(self) -> list[str]:
        return []

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import ablation

        return ablation.draw(self, source.params, source.runs, source.grid)


FIGURE = AblationFigure
