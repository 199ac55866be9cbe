"""Accuracy without an attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from typing_extensions import override

from pipeline.config.metrics import Metric

if TYPE_CHECKING:
    from pipeline.config.experiment import Experiment
    from pipeline.config.params import Params


class NaturalAccuracy(Metric):
    """Accuracy on the images as they are."""

    @override
    def explained(self, source: Params | Experiment) -> Iterator[str]:
        yield "no attack"


METRIC = NaturalAccuracy
