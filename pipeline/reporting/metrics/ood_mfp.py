"""The mean flip probability along sequences of perturbed images."""

from pipeline.reporting.metrics.base import CorruptionError

METRIC = CorruptionError
