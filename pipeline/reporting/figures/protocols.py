"""The training of one method under several protocols, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field
from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind
from pipeline.core.values import Protocol, unique
from pipeline.reporting.figures.training_curves import Curves, draw_columns, read_curves
from pipeline.reporting.style import PAGE_WIDTH, note_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ProtocolsFigure(FigureSettings):
    """The same curves of one method under several protocols, side by side.

    Runs of other protocols than the file's are those of the same method, seeds, data and network; of several with one
    seed, the last that finished.
    """

    kind: Literal["protocols"]
    method: str
    protocols: Annotated[list[Protocol], Field(min_length=1), AfterValidator(unique)]
    """From left to right; one without a run is said to be not measured."""

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "method", self.method

    @override
    def draw(self, source: FigureSource) -> Figure:
        """Raises as `pipeline.tracking.read_histories`."""
        from pipeline.tracking import runs_of_other_protocols

        experiments = [source.params.experiment(self.method, seed) for seed in source.params.seeds]
        others = runs_of_other_protocols(experiments).drop_duplicates(["protocol", "seed"], keep="last")
        columns = {
            protocol: read_curves(source, self.method)
            if protocol == source.params.protocol
            else Curves.read(others.loc[others["protocol"] == protocol, "run_id"])
            for protocol in self.protocols
        }
        figure, panels = draw_columns(PAGE_WIDTH, list(columns.values()), experiments[0])
        for (axes, *_), protocol in zip(panels, columns, strict=True):
            axes.set_title(protocol.replace("_", " "))
        note_below(
            figure, " ".join(_remark(protocol.replace("_", " "), curves) for protocol, curves in columns.items())
        )
        return figure


def _remark(protocol: str, curves: Curves) -> str:
    name = protocol.replace("_", " ")
    if not curves.runs:
        return f"Protocol {name}: not measured."
    seeds = "1 seed" if curves.runs == 1 else f"mean and standard deviation of {curves.runs} seeds"
    return f"Protocol {name}: accuracies on {curves.images} images, {seeds}."


FIGURE = ProtocolsFigure
