"""The section `figures` of `params.yaml`: what is drawn, of which methods, metrics and studies.

Names of other sections are checked when figures are drawn, not before: training does not depend on them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from pipeline.core.extensions import Family
from pipeline.core.values import Location, StrictModel, unique

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pipeline.config.params import Params

Kind = Literal["method", "metric", "attack", "study"]
Methods = Annotated[list[str], Field(min_length=1), AfterValidator(unique)]


class Axis(StrictModel):
    """A metric, and how the figure names it: the label is the whole of it, the unit included."""

    metric: str
    label: str


class Group(StrictModel):
    """What shares a marker and a colour: methods, or every setting of a study of the ablation grid."""

    label: str
    methods: Annotated[list[str], AfterValidator(unique)] = Field(default=[])
    study: str | None = None

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """Either of the two."""
        if bool(given.get("methods")) == (given.get("study") is not None):
            yield (), "expected either 'methods', at least one, or a 'study'"


@dataclass(frozen=True)
class FigureSource:
    """What a figure is drawn from."""

    params: Params
    """The file that declares it."""
    runs: pd.DataFrame
    """As `pipeline.tracking.finished_runs` gives them for the experiments that it shows, of other figures, too."""
    grid: Sequence[Any] = ()
    """The cells of the studies that it shows (`pipeline.studies.cells.Cell`), those of other figures' studies, too."""
    pictures: Any = None
    """Gives test images as networks see them (`pipeline.reporting.examples.Pictures`); None where they are missing."""


class FigureSettings(StrictModel):
    """A kind of figure; its fields are its options in `params.yaml`."""

    is_study: ClassVar[bool] = False
    """Whether it compares the cells of a study, or the trials of a search: while there is nothing to compare, it is
    left out."""
    caption: str
    """What a reader sees: plain text, `$math$` and `` `code` ``."""
    paper: str = ""
    """The papers' panels that it draws, for example 'Generalist++, Figure 1(a); CVPR, Figure 1'; "" where there is
    none. `pipeline/reporting/paper/figures.csv` has what their captions say."""
    kind: str

    @abstractmethod
    def draw(self, source: FigureSource) -> Figure:
        """The figure; called inside `pipeline.reporting.style.style()`.

        What takes long to import is imported here, not at the top of the module: settings are checked by every stage.

        Raises:
            RequestError: it cannot be drawn of what it names.
        """

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield from ()

    @property
    def methods_shown(self) -> list[str]:
        """The methods whose experiments it needs: those that it names."""
        return [name for kind, name in self.names() if kind == "method"]

    @property
    def studies_shown(self) -> list[str]:
        """The studies whose cells it needs: those that it names."""
        return [name for kind, name in self.names() if kind == "study"]

    def coverage(self, source: FigureSource, measured: int, shown: int) -> list[int]:
        """How many experiments are measured, and of how many.

        Args:
            source: As for `draw`.
            measured: Of the experiments that it shows, those with a finished run.
            shown: All of them.
        """
        return [measured, shown]


FIGURES = Family("figure", "pipeline.reporting.figures.*:FIGURE", FigureSettings, "kind")  # type: ignore[type-abstract]
AnyFigure = Annotated[FigureSettings, FIGURES]
