"""The mean of the accuracies under the attacks in `evaluation.union`, as the papers define it."""

from pipeline.reporting.metrics.base import UnionMetric

METRIC = UnionMetric
