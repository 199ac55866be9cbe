"""The section `ablation` of `params.yaml`: which settings of which methods are varied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.config.methods import AdamSettings
from pipeline.core.values import Duration, Location, Name, Real, StrictModel, Whole


class StudySettings(StrictModel):
    """What every study has."""

    label: str
    """What is varied, as figures and summaries name it: plain text, `$math$` and `` `code` ``."""
    methods: list[str] = Field(min_length=1)
    """Keys of `methods`; each is varied by itself. Where the mixture is varied, it is `moving_average`."""


class FirstRatioStudy(StudySettings):
    """gamma_1, the first learner's mixing ratio at every breakpoint; the others share the rest as they did."""

    varies: Literal["first_ratio"]
    values: list[Annotated[list[Real], Field(min_length=1)]] = Field(min_length=1)
    labels: list[str] | None = None
    """What a reader calls each of `values` (null: '1-1-1-0')."""

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """A label for every value."""
        values, labels = given.get("values"), given.get("labels")
        if isinstance(values, list) and isinstance(labels, list) and len(values) != len(labels):
            yield ("labels",), f"{len(values)} values need as many labels, got {len(labels)}"


class SecondRatioStudy(StudySettings):
    """b in gamma_2 = b (1 - gamma_1), of methods with three learners."""

    varies: Literal["second_ratio"]
    values: list[Annotated[Real, Field(ge=0, le=1)]] = Field(min_length=1)


class CommunicationIntervalStudy(StudySettings):
    """c: the learners restart from the global learner every c epochs, or every share of all epochs such as '5/120'."""

    varies: Literal["communication_interval"]
    values: list[Duration] = Field(min_length=1)


class WeightAveragingStudy(StudySettings):
    """Moving averages on none, each one, or all of the learners, with the mixture's decay; they are what is mixed."""

    varies: Literal["weight_averaging"]


class OptimizersStudy(StudySettings):
    """Every assignment of a learner's own optimizer or Adam to the learners; and the baseline with either."""

    varies: Literal["optimizers"]
    adam: AdamSettings
    joint: str | None = None
    """The method that trains one network, as the baseline of all (null: none); the papers': AT with beta = 1."""


class SettingsStudy(StudySettings):
    """Anything of any method: switches one at a time, or the method as it is (`{}`)."""

    varies: Literal["settings"]
    values: dict[Annotated[str, Field(min_length=1)], dict[str, Any]] = Field(min_length=1)
    """By what a reader calls it: what the method has instead, nested as in `methods`; how the two
    are merged: `pipeline.config.extending.merged`."""


class ReplacedExampleStudy(StudySettings):
    """Pairs that differ in one training image, of any method: as it is, and with `data.replaced_example`.

    What `python -m stages.stability` compares.
    """

    varies: Literal["replaced_example"]
    values: list[Annotated[Whole, Field(ge=0)]] = Field(min_length=1)
    """Positions of training images, each of which makes a pair."""


Study = Annotated[
    FirstRatioStudy
    | SecondRatioStudy
    | CommunicationIntervalStudy
    | WeightAveragingStudy
    | OptimizersStudy
    | SettingsStudy
    | ReplacedExampleStudy,
    Field(discriminator="varies"),
]


class AblationSettings(StrictModel):
    """The ablation grid: `python -m stages.ablation`."""

    studies: dict[Name, Study] = Field(default={})
    budget_hours: Annotated[Real, Field(gt=0)] = 24.0
    """A plan whose trainings and evaluations add up to more is not started without `--yes`."""
    budget_gigabytes: Annotated[Real, Field(gt=0)] = 50.0
    """The same for what it leaves on the disk."""
    attempts: Whole = Field(default=3, ge=1)
    """A cell that fails so many times is set aside."""
