"""RMC's path: two endpoints, a curve between them, and its best point."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import ModeConnectivitySettings
from pipeline.models.bezier import BezierPath
from pipeline.training.learner import Learner
from pipeline.training.weights import average_into, copy_weights, recompute_batch_norm, weight_tensors

HALF_WAY = 0.5


def path_between(settings: ModeConnectivitySettings, networks: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The path that the middle's learner trains, in place of its own network."""
    ends = [networks[name] for name in settings.endpoints]
    return {settings.middle: BezierPath(networks[settings.middle], *ends)}


class ModeConnectivity:
    """Robust mode connectivity (Wang et al., 2023) with a quadratic Bezier path between two learners.

    Until the endpoints are trained, the middle is their mean: the straight path, from which the source starts. Then the
    middle's learner trains on the path. After every epoch the result is the path's half-way point, after the last one
    the point that held-out images prefer, BatchNorm statistics recomputed on training images at each.

    Args:
        settings: Which learner is which, and how many points are compared.
        learners: Two endpoints and the middle, whose network is `path_between` them.
        epochs: The last epoch.
    """

    def __init__(self, settings: ModeConnectivitySettings, learners: Iterable[Learner], epochs: int) -> None:
        by_name = {learner.name: learner for learner in learners}
        self._settings = settings
        self._epochs = epochs
        self._ends = [by_name[name].model for name in settings.endpoints]
        path = by_name[settings.middle].model
        assert isinstance(path, BezierPath)
        self._path = path
        self.model = deepcopy(path.middle).eval()
        """A point of the path as a network of its own."""

    def after_step(self, epoch: int, step: int = 1, steps: int = 1) -> None:
        """Nothing: a point is chosen after the epoch."""

    def after_epoch(
        self, epoch: int, images: Callable[[], Iterable[Tensor]], judge: Callable[[nn.Module], float], steps: int = 1
    ) -> dict[str, float]:
        """Keep the path straight while the endpoints train; go to its half-way point, at the end to its best one.

        Args:
            epoch: The one that has ended.
            images: Gives the training minibatches of the epoch, for BatchNorm.
            judge: Gives the score of a network on held-out images; the highest wins, ties go to the smaller t.

        Returns:
            `path_position`, the t of the result; after the last epoch `path/<t>`, the score of every point, too.
        """
        if epoch <= self._settings.path_starts_after:
            average_into(weight_tensors(self._path.middle), [(0.5, weight_tensors(end)) for end in self._ends], decay=0)
        scores: dict[float, float] = {}
        if epoch == self._epochs:
            for position in torch.linspace(0, 1, self._settings.points, dtype=torch.float64).tolist():
                self._move_to(position, images())
                scores[position] = judge(self.model)
        chosen = max(scores, key=lambda position: scores[position], default=HALF_WAY)
        self._move_to(chosen, images())
        self._path.position = HALF_WAY
        return {"path_position": chosen} | {f"path/{position:.3f}": score for position, score in scores.items()}

    @torch.no_grad()
    def _move_to(self, position: float, images: Iterable[Tensor]) -> None:
        """Make `model` the path's point at `position`."""
        self._path.position = position
        copy_weights(self._path.middle, self.model)
        weights = self._path.weights()
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])
        recompute_batch_norm(self.model, images)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs; tensors are references, not copies."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.model.load_state_dict(state["model"])
