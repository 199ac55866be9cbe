"""What the papers say of training time, tested by a benchmark in which the methods' steps take turns on one machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results/methods.json")
"""What `python -m benchmarks methods` wrote."""
NETWORK = "resnet18"
Steps = Mapping[str, Mapping[str, float]]
"""By method, the time of a step relative to AT's beside it: `median`, `least` and `most` of the rounds."""


@dataclass(frozen=True)
class Cost:
    """The papers' claim that a method takes less time than others together."""

    text: str
    source: str
    method: str
    others: tuple[str, ...]


GENERALIST = "Generalist-D (NT + linf), one learner after the other,"
COSTS = (
    Cost(f"{GENERALIST} is faster than TRADES (lambda = 6)", "CVPR 4.1", "generalist_d_nt_linf", ("trades_6",)),
    Cost(f"{GENERALIST} is faster than TRADES (lambda = 1)", "CVPR 4.1", "generalist_d_nt_linf", ("trades_1",)),
    Cost(f"{GENERALIST} takes no more than NT and AT", "CVPR 4.1", "generalist_d_nt_linf", ("nt", "at")),
)


def read_steps() -> Steps | None:
    """The committed benchmark; None where there is none."""
    if not RESULTS.exists():
        return None
    measured: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["architectures"][NETWORK]["methods"]
    return {name: one["relative_to_at"] for name, one in measured.items()}


def judge_cost(cost: Cost, steps: Steps) -> tuple[list[float], str]:
    """The method's time over that of the others together: median, least and most that the rounds allow; and verdict."""
    own, others = steps[cost.method], [steps[name] for name in cost.others]
    ratios = [
        own[end] / sum(other[opposite] for other in others)
        for end, opposite in (("median", "median"), ("least", "most"), ("most", "least"))
    ]
    _, least, most = ratios
    return ratios, "confirmed" if most < 1 else "not confirmed" if least > 1 else "cannot be told from these rounds"
