"""The mean corruption error."""

from pipeline.reporting.metrics.base import CorruptionError

METRIC = CorruptionError
