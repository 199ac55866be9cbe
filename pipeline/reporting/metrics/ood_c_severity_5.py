"""Accuracy under corruptions of severity 5."""

from pipeline.reporting.metrics.base import CorruptionMetric

METRIC = CorruptionMetric
