"""Which experiments share a run of the grid: starting a process for each would take longer than many of them do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.config import Experiment
from pipeline.grid.plan import Cost, costs

SHORT = 30.0
"""Expected seconds below which a run would spend more on its start than is won by spreading experiments."""
BISECTIONS = 20
"""Halvings of the cost of all experiments, to find the least bound of a worker's share: to a millionth."""
LARGEST = 32
"""Experiments in a run: the server refuses parameters of more than half a megabyte, and one has some 5 kB."""


def grouped(experiments: Sequence[Experiment], seconds: float, workers: int) -> list[list[Experiment]]:
    """What share a run, as `group`, by what each will cost on this machine; with 0 seconds each stays alone."""
    from pipeline.experiments.prepare import ensure_prepared

    expected: dict[str, Cost] = {}
    if seconds and experiments:
        ensure_prepared(experiments[0])
        expected = costs(experiments)
    return group(experiments, expected, seconds, max(workers, 1))


def group(
    experiments: Sequence[Experiment], expected: Mapping[str, Cost], seconds: float, workers: int
) -> list[list[Experiment]]:
    """Neighbours together, up to `seconds`: one group for each worker where that is enough, for each costs a start.

    Args:
        experiments: What is to be done.
        expected: Cost by fingerprint; an experiment without one stays alone.
        seconds: A group may be expected to take.
        workers: That share the groups.
    """
    costs_of = [expected[one.fingerprint].seconds if one.fingerprint in expected else math.inf for one in experiments]
    low, high = 0.0, sum(cost for cost in costs_of if cost < math.inf)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if len(_packed(experiments, costs_of, middle)) > workers:
            low = middle
        else:
            high = middle
    return _packed(experiments, costs_of, min(seconds, max(high, SHORT)))


def _packed(experiments: Sequence[Experiment], costs_of: Sequence[float], bound: float) -> list[list[Experiment]]:
    """Neighbours together, as long as their costs add up to no more than `bound`."""
    groups: list[list[Experiment]] = []
    total = math.inf
    for one, cost in zip(experiments, costs_of, strict=True):
        if total + cost > bound or len(groups[-1]) == LARGEST:
            groups.append([])
            total = 0.0
        groups[-1].append(one)
        total += cost
    return groups
