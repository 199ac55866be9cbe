"""The section `figures` of `params.yaml`: what is drawn, of which methods, metrics and studies.

Names of other sections are checked when figures are drawn, not before: training does not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from pipeline.core.values import Closed, Place, Protocol, Whole, once

Kind = Literal["method", "metric", "attack", "study"]
Methods = Annotated[list[str], Field(min_length=1), AfterValidator(once)]


class Axis(Closed):
    """A metric, and how the figure names it: the label is the whole of it, the unit included."""

    metric: str
    label: str


class Group(Closed):
    """What shares a marker and a colour: methods, or every setting of a study of the ablation grid."""

    label: str
    methods: Annotated[list[str], AfterValidator(once)] = Field(default=[])
    study: str | None = None

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """Either of the two."""
        if bool(given.get("methods")) == (given.get("study") is not None):
            yield (), "expected either 'methods', at least one, or a 'study'"


class Captioned(Closed):
    """What every figure has."""

    caption: str
    """What a reader sees: plain text, `$math$` and `` `code` ``."""
    paper: str = ""
    """The papers' panels that it draws, for example 'Generalist++, Figure 1(a); CVPR, Figure 1'; "" where there is
    none. `pipeline/reporting/paper/figures.csv` has what their captions say."""


class TradeOffFigure(Captioned):
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
        once([group.label for group in value])
        once([method for group in value for method in group.methods])
        return value

    @property
    def methods(self) -> list[str]:
        """The methods of all groups."""
        return [method for group in self.groups for method in group.methods]

    @property
    def studies(self) -> list[str]:
        """The studies of all groups."""
        return [group.study for group in self.groups if group.study is not None]

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield from (("metric", axis.metric) for axis in (self.x, self.y))
        yield from (("method", method) for method in self.methods)
        yield from (("study", study) for study in self.studies)


class ClassWiseFigure(Captioned):
    """The accuracy of each class of the data set under one attack, `natural`, or `union`: the mean of its attacks."""

    kind: Literal["class_wise"]
    attack: str
    label: str
    """How the axis names the accuracy."""
    methods: Methods

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield "attack", self.attack
        yield from (("method", method) for method in self.methods)


class TrainingCurvesFigure(Captioned):
    """Accuracies of all learners of a method over the epochs, above the mixing ratios and the redistributions."""

    kind: Literal["training_curves"]
    method: str

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield "method", self.method


class ProtocolsFigure(Captioned):
    """The same curves of one method under several protocols, side by side."""

    kind: Literal["protocols"]
    method: str
    protocols: Annotated[list[Protocol], Field(min_length=1), AfterValidator(once)]
    """From left to right; one without a run is said to be not measured."""

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield "method", self.method


class TheoryFigure(Captioned):
    """Regrets, geometric term, cosines of gradients and loss barriers of a method over the epochs."""

    kind: Literal["theory"]
    method: str

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield "method", self.method


class FrameworkFigure(Captioned):
    """The learners, the mixture and the schedule of a method with the mixture `moving_average`."""

    kind: Literal["framework"]
    method: str

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield "method", self.method


class AblationFigure(Captioned):
    """What a study of the ablation grid varies, against metrics."""

    kind: Literal["ablation"]
    study: str
    methods: Methods | None = None
    """The study's methods that are drawn (null: all)."""
    metrics: Annotated[list[Axis], Field(min_length=1)]

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield "study", self.study
        yield from (("method", method) for method in self.methods or [])
        yield from (("metric", axis.metric) for axis in self.metrics)


class GradCAMFigure(Captioned):
    """What networks look at in images that some methods get right and others get wrong."""

    kind: Literal["grad_cam"]
    view: str
    """`natural`, or a PGD attack, which each method is attacked with by itself."""
    baselines: Methods
    """The methods that are wrong: images that more of them get wrong come first."""
    methods: Methods
    """The methods that are right, all of them."""
    images: Whole = Field(default=4, ge=1, le=12)

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield "attack", self.view
        yield from (("method", method) for method in [*self.baselines, *self.methods])


class StabilityFigure(Captioned):
    """How far losses lie apart whose networks' training sets differ in one example, beside the bound and the gap."""

    kind: Literal["stability"]
    study: str
    """One that varies `replaced_example`."""
    methods: Methods | None = None
    """The study's methods that are drawn (null: all)."""
    loss: Literal["error_probability", "cross_entropy"] = "error_probability"
    """1 - p of the true class, or the cross-entropy in nats."""

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare."""
        yield "study", self.study
        yield from (("method", method) for method in self.methods or [])


class ParetoFigure(Captioned):
    """Every trial of the search between its two objectives, and the frontier of those that no other one beats."""

    kind: Literal["pareto"]

    def names(self) -> Iterator[tuple[Kind, str]]:
        """What other sections of the file must declare: `search`, which says itself what is wrong with it."""
        yield from ()


FigureSettings = Annotated[
    TradeOffFigure
    | ClassWiseFigure
    | TrainingCurvesFigure
    | ProtocolsFigure
    | TheoryFigure
    | FrameworkFigure
    | AblationFigure
    | GradCAMFigure
    | StabilityFigure
    | ParetoFigure,
    Field(discriminator="kind"),
]
