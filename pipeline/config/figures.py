"""The section `figures` of `params.yaml`: what is drawn, of which methods, metrics and studies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo
from typing_extensions import override

from pipeline.config.metrics import unknown_metric
from pipeline.core.errors import PipelineError, did_you_mean
from pipeline.core.extensions import Family
from pipeline.core.values import Location, StrictModel, context, unique, unless

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pipeline.config.params import Params

Kind = Literal["method", "metric", "attack", "study"]
Methods = Annotated[list[str], Field(min_length=1), AfterValidator(unique)]


class NothingToShow(PipelineError):
    """A figure would be empty; the message says why, and how to change that."""


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

    fewest: ClassVar[int] = 1
    """Measured experiments from which on it shows something; it is not written with fewer."""
    command: ClassVar[str] = "make repro figures"
    """What measures the others."""
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
            RequestError: it cannot be drawn of what it names, which the settings alone did not tell.
            NothingToShow: of what is measured.
        """

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield from ()

    def misfits(self, params: Params) -> Iterator[str]:
        """What does not go together with what other sections declare; the names are known to be right."""
        yield from ()

    @property
    def methods_shown(self) -> list[str]:
        """The methods whose experiments it needs: those that it names."""
        return [name for kind, name in self.names() if kind == "method"]

    @property
    def method_groups(self) -> list[Group]:
        """Groups of methods that other figures and tables keep together, too; those of the first figure count."""
        return []

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


class StudyFigure(FigureSettings):
    """A kind of figure that shows one study of the ablation grid."""

    fewest: ClassVar[int] = 2
    command: ClassVar[str] = "make ablation"
    study: str
    methods: Methods | None = None
    """The study's methods that are drawn (null: all)."""

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "study", self.study
        yield from (("method", method) for method in self.methods or [])

    @override
    def misfits(self, params: Params) -> Iterator[str]:
        studied = params.ablation.studies[self.study].methods
        for method in self.methods or []:
            if method not in studied:
                yield f"study '{self.study}' does not vary {method}: {did_you_mean(method, studied)}"

    @property
    @override
    def methods_shown(self) -> list[str]:
        return []  # the cells of the study are


def _check_names(value: FigureSettings, info: ValidationInfo) -> FigureSettings:
    """Refuse (ValueError) names that the other sections of the file do not declare."""
    attacks, methods, studies = (context(info, key) for key in ("attacks", "methods", "studies"))
    valid = {"method": methods or None, "attack": ["natural", "union", *attacks] if attacks else None, "study": studies}
    problems = []
    for kind, name in dict.fromkeys(value.names()):
        if kind == "metric":
            problems.append(unknown_metric(name, attacks) if attacks else "")
        elif valid[kind] is not None and name not in valid[kind]:
            problems.append(f"unknown {kind} '{name}': {did_you_mean(name, valid[kind])}")
    return unless(list(filter(None, problems)), value)


FIGURES = Family("figure", "pipeline.reporting.figures.*:FIGURE", FigureSettings, "kind")  # type: ignore[type-abstract]
AnyFigure = Annotated[FigureSettings, FIGURES, AfterValidator(_check_names)]
