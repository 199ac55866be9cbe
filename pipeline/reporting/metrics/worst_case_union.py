"""The share of images that are correct under each of the attacks in `evaluation.union`."""

from pipeline.reporting.metrics.base import UnionMetric

METRIC = UnionMetric
