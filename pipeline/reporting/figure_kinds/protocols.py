"""One method under several protocols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field
from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind
from pipeline.core.values import Protocol, unique

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ProtocolsFigure(FigureSettings):
    """The same curves of one method under several protocols, side by side."""

    kind: Literal["protocols"]
    method: str
    protocols: Annotated[list[Protocol], Field(min_length=1), AfterValidator(unique)]
    """From left to right; one without a run is said to be not measured."""

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "method", self.method

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import protocols

        return protocols.draw(self, source.params, source.runs)


FIGURE = ProtocolsFigure
