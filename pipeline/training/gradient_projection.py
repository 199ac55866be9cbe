"""RAMP's fusion: what a natural epoch and a robust epoch agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import GradientProjectionSettings
from pipeline.training.learner import Learner
from pipeline.training.weights import copy_weights, counters, weight_tensors


@torch.no_grad()
def project_updates(
    old: list[Tensor], natural: list[Tensor], robust: list[Tensor], natural_share: float
) -> list[float]:
    """theta <- theta + b max(cos(d_n, d_a), 0) d_n + (1 - b) d_a for every tensor of `old`, in place.

    Args:
        old: theta at the start of the epoch.
        natural: After the natural epoch; d_n is the difference.
        robust: After the robust epoch; d_a is the difference.
        natural_share: b in [0, 1].

    Returns:
        The cosine of every tensor; 0 where one of them did not move.
    """
    cosines = []
    for theta, theta_natural, theta_robust in zip(old, natural, robust, strict=True):
        natural_update, robust_update = theta_natural - theta, theta_robust - theta
        cosine = functional.cosine_similarity(natural_update.flatten(), robust_update.flatten(), dim=0)
        theta.add_(natural_share * cosine.clamp_min(0) * natural_update + (1 - natural_share) * robust_update)
        cosines.append(float(cosine))
    return cosines


class GradientProjection:
    """A natural and a robust learner that restart after every epoch from their projected updates.

    Jiang and Singh (2024), algorithm 2; BatchNorm statistics are fused like weights, and momentum buffers go on as they
    are, both as in the source.

    Args:
        settings: Which learner is which, and b.
        learners: Two, with the same initial weights.
    """

    def __init__(self, settings: GradientProjectionSettings, learners: Iterable[Learner]) -> None:
        by_name = {learner.name: learner for learner in learners}
        self._natural, self._robust = by_name[settings.natural], by_name[settings.robust]
        self._share = settings.natural_share
        self.model = deepcopy(self._robust.model).eval()
        """theta at the start of the epoch under way."""

    def after_step(self, epoch: int, step: int = 1, steps: int = 1) -> None:
        """Nothing: the learners meet after the epoch."""

    def after_epoch(
        self, epoch: int, images: Callable[[], Iterable[Tensor]], judge: Callable[[nn.Module], float], steps: int = 1
    ) -> dict[str, float]:
        """Fuse, and hand the result to both learners."""
        natural, robust = self._natural.model, self._robust.model
        cosines = project_updates(
            weight_tensors(self.model), weight_tensors(natural), weight_tensors(robust), self._share
        )
        for ours, theirs in zip(counters(self.model), counters(robust), strict=True):
            ours.copy_(theirs)
        for learner in (natural, robust):
            copy_weights(self.model, learner)
        return {"redistributed": 1.0, "update_cosine": sum(cosines) / len(cosines)}

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs; tensors are references, not copies."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.model.load_state_dict(state["model"])
