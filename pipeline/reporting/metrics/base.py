"""What metrics share that are made of several attacks, or of corrupted images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from pipeline.config.metrics import Metric

if TYPE_CHECKING:
    from pipeline.config.evaluation import EvaluationSettings
    from pipeline.config.experiment import Experiment
    from pipeline.config.params import Params


class UnionMetric(Metric):
    """An accuracy over the attacks in `evaluation.union`."""

    @override
    def attacks(self, evaluation: EvaluationSettings) -> list[str]:
        return evaluation.union


class CorruptionMetric(Metric):
    """An accuracy on corrupted images."""

    stage: ClassVar[Literal["evaluate", "ood"]] = "ood"

    @override
    def explained(self, source: Params | Experiment) -> Iterator[str]:
        yield f"corrupted images: {source.ood.model_dump(mode='json')}"


class CorruptionError(CorruptionMetric):
    """An error on corrupted images: less is better."""

    is_accuracy: ClassVar[bool] = False
