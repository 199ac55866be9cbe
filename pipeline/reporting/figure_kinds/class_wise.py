"""Accuracy by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind, Methods

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ClassWiseFigure(FigureSettings):
    """The accuracy of each class of the data set under one attack, `natural`, or `union`: the mean of its attacks."""

    kind: Literal["class_wise"]
    attack: str
    label: str
    """How the axis names the accuracy."""
    methods: Methods

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "attack", self.attack
        yield from (("method", method) for method in self.methods)

    @override
    def draw(self, source: FigureSource) -> Figure:
        from pipeline.reporting.figures import class_wise

        return class_wise.draw(self, source.params, source.runs)


FIGURE = ClassWiseFigure
