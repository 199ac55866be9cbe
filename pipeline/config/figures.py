"""The section `figures` of `params.yaml`: what is drawn, of which methods, metrics and studies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from pipeline.config.values import Closed, context, unless
from pipeline.errors import did_you_mean


def _one_of(what: str, section: str) -> AfterValidator:
    """A value that another section of the file declares."""

    def check(value: str, info: ValidationInfo) -> str:
        known = context(info, section)
        if known is None or value in known:
            return value
        valid = did_you_mean(value, known) if known else "the file declares none"
        raise ValueError(f"unknown {what} '{value}': {valid}")

    return AfterValidator(check)


def _once(values: list[str]) -> list[str]:
    return unless(sorted({f"'{value}' is given more than once" for value in values if values.count(value) > 1}), values)


Method = Annotated[str, _one_of("method", "methods")]
Methods = Annotated[list[Method], Field(min_length=1), AfterValidator(_once)]
Metric = Annotated[str, _one_of("metric", "metrics")]
Attack = Annotated[str, _one_of("attack", "verdicts")]
StudyName = Annotated[str, _one_of("study", "studies")]


class Axis(Closed):
    """A metric, and how the figure names it."""

    metric: Metric
    label: str


class Captioned(Closed):
    """What every figure has."""

    caption: str
    """What a reader sees: plain text, `$math$` and `` `code` ``."""
    paper: str = ""
    """The papers' figure that it corresponds to, for example 'Generalist++, Figure 1(a)'; "" where there is none."""


class TradeOffFigure(Captioned):
    """Every method as a point between two metrics, and the frontier of those that no other one beats in both."""

    kind: Literal["trade_off"]
    x: Axis
    y: Axis
    groups: Annotated[dict[str, Methods], Field(min_length=1)]
    """Methods that share a marker and a colour, by the group's name in the legend."""

    @field_validator("groups")
    @classmethod
    def _name_methods_once(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        _once([method for methods in value.values() for method in methods])
        return value

    @property
    def methods(self) -> list[str]:
        """The methods of all groups."""
        return [method for methods in self.groups.values() for method in methods]


class ClassWiseFigure(Captioned):
    """The accuracy of each class of the data set under one attack, or `natural`."""

    kind: Literal["class_wise"]
    attack: Attack
    label: str
    """How the axis names the accuracy."""
    methods: Methods


class TrainingCurvesFigure(Captioned):
    """Accuracies of all learners of a method over the epochs, above the mixing ratios and the redistributions."""

    kind: Literal["training_curves"]
    method: Method


class FrameworkFigure(Captioned):
    """The learners, the mixture and the schedule of a method with the mixture `moving_average`."""

    kind: Literal["framework"]
    method: Method


class AblationFigure(Captioned):
    """What a study of the ablation grid varies, against metrics."""

    kind: Literal["ablation"]
    study: StudyName
    methods: Methods | None = None
    """Those of the study's methods that are drawn (null: all)."""
    metrics: Annotated[list[Axis], Field(min_length=1)]


class GradCAMFigure(Captioned):
    """What networks look at in images that one method gets right and others get wrong."""

    kind: Literal["grad_cam"]
    view: Attack
    """`natural`, or a PGD attack, which each method is attacked with by itself."""
    baselines: Methods
    """The methods that are wrong: images that more of them get wrong come first."""
    method: Method
    """The method that is right."""
    images: Annotated[int, Field(ge=1, le=12)] = 4


FigureSettings = Annotated[
    TradeOffFigure | ClassWiseFigure | TrainingCurvesFigure | FrameworkFigure | AblationFigure | GradCAMFigure,
    Field(discriminator="kind"),
]
