"""The global learner: an EMA of the convex combination of the learners' weights, handed back at intervals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import MixtureSettings
from pipeline.training.learner import Learner
from pipeline.training.weights import MovingAverage, copy_weights


class GlobalLearner:
    """theta_g of Generalist (Wang and Wang, 2023, Alg. 1) and Generalist++ (Alg. 1 and 2), for any number of learners.

    Args:
        settings: Mixing ratios, decay, when to hand back.
        learners: All with the same architecture and the same initial weights, from which theta_g starts too.
    """

    def __init__(self, settings: MixtureSettings, learners: Iterable[Learner]) -> None:
        self._settings = settings
        self._learners = list(learners)
        self._average = MovingAverage(self._learners[0].model, settings.decay, settings.decay_warmup)

    @property
    def model(self) -> nn.Module:
        """The network with theta_g, in eval mode."""
        return self._average.model

    def after_step(self, epoch: int) -> None:
        """Follow the learners; under `every_batch` hand the result back at once in the epochs that redistribute."""
        self.update(epoch)
        if self._settings.redistribution == "every_batch" and self.redistributes_in(epoch):
            self.redistribute()

    def after_epoch(self, epoch: int) -> None:
        """Under `epoch_end`, hand the result back when it is time."""
        if self._settings.redistribution == "epoch_end" and self.redistributes_in(epoch):
            self.redistribute()

    def update(self, epoch: int) -> None:
        """theta_g <- alpha' theta_g + (1 - alpha') sum_a gamma_a theta_a, after every step."""
        ratios = self._settings.ratios_at(epoch)
        self._average.update([(ratios[learner.name], self._source(learner)) for learner in self._learners])

    def _source(self, learner: Learner) -> nn.Module:
        if self._settings.source == "weight_averages" and learner.average is not None:
            return learner.average.model
        return learner.model

    def redistributes_in(self, epoch: int) -> bool:
        """Whether the learners restart from theta_g in this epoch: from t' on, every c epochs."""
        return epoch >= self._settings.warmup_epochs and epoch % self._settings.communication_interval == 0

    def redistribute(self) -> None:
        """theta_a <- theta_g for every learner, BatchNorm statistics included.

        Momentum buffers and the learners' own weight averages go on as they are (the authors' code; the papers are
        silent).
        """
        for learner in self._learners:
            copy_weights(self.model, learner.model)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs; tensors are references, not copies."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._average.load_state_dict(state)


def recompute_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace BatchNorm's running statistics by those of `batches` of images, each batch weighing the same."""
    torch.optim.swa_utils.update_bn(batches, model)
