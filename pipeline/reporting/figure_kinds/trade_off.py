"""Methods between two metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator
from typing_extensions import override

from pipeline.config.figures import Axis, FigureSettings, FigureSource, Group, Kind
from pipeline.core.values import unique

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TradeOffFigure(FigureSettings):
    """Methods, or settings of studies, as points between two metrics, and the frontier of those that no other one beats
    in both."""

    kind: Literal["trade_off"]
    x: Axis
    y: Axis
    groups: Annotated[list[Group], Field(min_length=1)]
    """In the order of the legend; later ones are drawn above earlier ones."""

    @field_validator("groups")
    @classmethod
    def _differ(cls, value: list[Group]) -> list[Group]:
        unique([group.label for group in value])
        unique([method for group in value for method in group.methods])
        return value

    @property
    def methods(self) -> list[str]:
        """The methods of all groups."""
        return [method for group in self.groups for method in group.methods]

    @property
    def studies(self) -> list[str]:
        """The studies of all groups."""
        return [group.study for group in self.groups if group.study is not None]

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield from (("metric", axis.metric) for axis in (self.x, self.y))
        yield from (("method", method) for method in self.methods)
        yield from (("study", study) for study in self.studies)

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import trade_off

        return trade_off.draw(self, source.params, source.runs, source.grid)


FIGURE = TradeOffFigure
