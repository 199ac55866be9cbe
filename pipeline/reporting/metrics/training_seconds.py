"""The time of all training steps, without measurements in between."""

from typing import ClassVar

from pipeline.config.metrics import Metric


class TrainingSeconds(Metric):
    """Seconds."""

    is_accuracy: ClassVar[bool] = False
    scale: ClassVar[float] = 1


METRIC = TrainingSeconds
