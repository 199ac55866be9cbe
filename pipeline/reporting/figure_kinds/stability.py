"""Pairs whose training sets differ in one example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind, Methods

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class StabilityFigure(FigureSettings):
    """How far losses lie apart whose networks' training sets differ in one example, beside the bound and the gap."""

    is_study: ClassVar[bool] = True
    kind: Literal["stability"]
    study: str
    """One that varies `replaced_example`."""
    methods: Methods | None = None
    """The study's methods that are drawn (null: all)."""
    loss: Literal["error_probability", "cross_entropy"] = "error_probability"
    """1 - p of the true class, or the cross-entropy in nats."""

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "study", self.study
        yield from (("method", method) for method in self.methods or [])

    @property
    @override
    def methods_shown(self) -> list[str]:
        return []

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import stability

        return stability.draw(self, source.params, source.runs, source.grid)


FIGURE = StabilityFigure
