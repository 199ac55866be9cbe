"""What networks look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind, Methods
from pipeline.core.values import Whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GradCAMFigure(FigureSettings):
    """What networks look at in images that some methods get right and others get wrong."""

    kind: Literal["grad_cam"]
    view: str
    """`natural`, or a PGD attack, which each method is attacked with by itself."""
    baselines: Methods
    """The methods that are wrong: images that more of them get wrong come first."""
    methods: Methods
    """The methods that are right, all of them."""
    images: Whole = Field(default=4, ge=1, le=12)

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "attack", self.view
        yield from (("method", method) for method in [*self.baselines, *self.methods])

    @override
    def coverage(self, source: FigureSource, measured: int, shown: int) -> list[int]:
        return [0 if source.pictures is None else measured, shown]

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import grad_cam

        return grad_cam.draw(self, source.params, source.runs, source.pictures)


FIGURE = GradCAMFigure
