"""Accuracy under corruptions of all severities."""

from pipeline.reporting.metrics.base import CorruptionMetric

METRIC = CorruptionMetric
