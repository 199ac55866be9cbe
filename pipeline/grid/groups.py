"""Which experiments share a run of the grid: starting a process for each would take longer than many of them do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from pipeline.config import Experiment
from pipeline.grid.plan import Cost, costs
from pipeline.studies.warm_ups import WarmUp, shared_warm_ups

SHORT = 30.0
"""Expected seconds below which a run would spend more on its start than is won by spreading experiments."""
BISECTIONS = 20
"""Halvings of the cost of all experiments, to find the least bound of a worker's share: to a millionth."""
LARGEST = 32
"""Experiments in a run: the server refuses parameters of more than half a megabyte, and one has some 5 kB."""


def grouped(experiments: Sequence[Experiment], seconds: float, workers: int) -> list[list[Experiment]]:
    """What share a run: those that share a warm-up, and others as `group`; with 0 seconds each stays alone."""
    if not seconds or not experiments:
        return group(experiments, {}, seconds, max(workers, 1))
    from pipeline.experiments.prepare import ensure_prepared

    together = [part.experiments for part in parts_of_warm_ups(experiments, max(workers, 1))]
    placed = {one.fingerprint for part in together for one in part}
    others = [one for one in experiments if one.fingerprint not in placed]
    ensure_prepared(experiments[0])
    return [*together, *group(others, costs(others), seconds, max(workers, 1))]


def parts_of_warm_ups(experiments: Iterable[Experiment], workers: int) -> list[WarmUp]:
    """The warm-ups that experiments share, each in a part for every worker: each part is trained where its members are.

    What members of different parts have in common is trained once for each part.
    """
    found: list[WarmUp] = []
    for warm_up in shared_warm_ups(experiments):
        members = warm_up.experiments
        size = min(LARGEST, -(-len(members) // workers))
        for first in range(0, len(members), size):
            found += shared_warm_ups(members[first : first + size])
    return found


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
