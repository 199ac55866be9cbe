"""Accuracy along sequences of perturbed images."""

from pipeline.reporting.metrics.base import CorruptionMetric

METRIC = CorruptionMetric
