"""What columns of tables and axes of figures show: metrics, found by their names.

One of your own is a module with a subclass of `Metric` named `METRIC`, and its name is the dotted path of that module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from pipeline.core.errors import did_you_mean
from pipeline.core.extensions import Family
from pipeline.core.values import StrictModel

if TYPE_CHECKING:
    from pipeline.config.evaluation import EvaluationSettings
    from pipeline.config.experiment import Experiment
    from pipeline.config.params import Params


class Metric(StrictModel):
    """A number of a finished run. This one is the accuracy under the attack of its name."""

    is_accuracy: ClassVar[bool] = True
    """Whether it is a share of images, of which more is better: it is ranked, and may have an interval."""
    scale: ClassVar[float] = 100
    """Tables show its value times this."""
    stage: ClassVar[Literal["evaluate", "ood"]] = "evaluate"
    """The DVC stage that measures it."""
    name: str

    def value(self, run: Mapping[str, Any]) -> float:
        """Its value, before it is scaled; NaN where the run lacks what it is made of.

        Args:
            run: A row of `pipeline.tracking.finished_runs`.
        """
        return self.measured(run, self.name)

    def images(self, run: Mapping[str, Any]) -> float:
        """The number of images that the value rests on; NaN where that is unknown."""
        return self.counted(run, self.name)

    def attacks(self, evaluation: EvaluationSettings) -> list[str]:
        """The attacks that it is made of, keys of `evaluation.attacks`."""
        return [self.name] if self.name in evaluation.attacks else []

    def explained(self, source: Params | Experiment) -> Iterator[str]:
        """What `make explain` says it is measured with, besides its attacks."""
        yield from ()

    @staticmethod
    def measured(run: Mapping[str, Any], name: str) -> float:
        """What a run has measured: an accuracy in [0, 1], under an attack or another name; NaN where it has none."""
        value = run.get(f"metric.{name}")
        return math.nan if value is None else float(value)

    @staticmethod
    def counted(run: Mapping[str, Any], name: str) -> float:
        """On how many images a run has measured it; NaN where that is unknown."""
        return float(run.get(f"count.{name}", math.nan))


class NaturalAccuracy(Metric):
    """The accuracy on the images as they are."""

    @override
    def explained(self, source: Params | Experiment) -> Iterator[str]:
        yield "no attack"


class UnionAccuracy(Metric):
    """Accuracies under the attacks in `evaluation.union`: their mean, as the papers define it (`union`), or the share
    of images that are correct under each of them (`worst_case_union`)."""

    @override
    def attacks(self, evaluation: EvaluationSettings) -> list[str]:
        return evaluation.union


class CorruptionAccuracy(Metric):
    """The accuracy on corrupted images of all severities or the last, or along sequences of perturbed images."""

    stage: ClassVar[Literal["evaluate", "ood"]] = "ood"

    @override
    def explained(self, source: Params | Experiment) -> Iterator[str]:
        yield f"corrupted images: {source.ood.model_dump(mode='json')}"


class CorruptionError(CorruptionAccuracy):
    """The mean corruption error, or the mean flip probability along sequences: less is better."""

    is_accuracy: ClassVar[bool] = False


class TrainingSeconds(Metric):
    """The time of all training steps, without measurements in between."""

    is_accuracy: ClassVar[bool] = False
    scale: ClassVar[float] = 1


METRICS = Family(
    "metric",
    "pipeline.config.metrics.*:METRIC",
    Metric,
    built_in={
        "natural": NaturalAccuracy,
        "ood_c": CorruptionAccuracy,
        "ood_c_severity_5": CorruptionAccuracy,
        "ood_mce": CorruptionError,
        "ood_mfp": CorruptionError,
        "ood_p": CorruptionAccuracy,
        "training_seconds": TrainingSeconds,
        "union": UnionAccuracy,
        "worst_case_union": UnionAccuracy,
    },
)


@cache
def metric_named(name: str) -> Metric:
    """The metric of a name, which is known to be valid: what is no other metric is an attack."""
    kind = METRICS.find(name) if "." in name or name in METRICS.names() else Metric
    return kind(name=name)


def unknown_metric(name: str, attacks: list[str]) -> str:
    """What is wrong with the name of a metric where there are these attacks; "" where it is valid."""
    valid = [*METRICS.names(), *attacks]
    if name in valid:
        return ""
    try:
        METRICS.find(name)
    except ValueError as error:
        return str(error) if "." in name else f"unknown metric '{name}': {did_you_mean(name, valid)}"
    return ""
