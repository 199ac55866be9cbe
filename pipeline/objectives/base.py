"""What every training objective is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import Closed, Norm


@dataclass(frozen=True)
class Moment:
    """The moment of training at which a loss is computed."""

    epoch: int
    """From 1."""
    epochs: int
    """The last epoch."""
    generator: torch.Generator
    """The learner's own noise for this step, on the device of the images."""


@dataclass(frozen=True)
class Losses:
    """What one evaluation of an objective gives."""

    loss: Tensor
    """Scalar to minimise, with its graph."""
    logits: Tensor
    """(batch, classes): the logits that the loss was computed on, for the training accuracy; detached."""


class Objective(Closed):
    """A loss and the inputs it is computed on. Fields are the options that `params.yaml` may give."""

    name: str

    def norms(self) -> tuple[Norm, ...]:
        """The norms that it trains against: those of its fields `attack` and `attacks`."""
        attacks = [getattr(self, "attack", None), *getattr(self, "attacks", ())]
        return tuple(attack.norm for attack in attacks if attack is not None)

    @abstractmethod
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        """The loss of `model`, which is in train mode, on one minibatch.

        Args:
            model: Maps images to logits.
            images: (batch, channels, height, width), float32 in [0, 1].
            labels: (batch,), int64.
            moment: Epoch and source of randomness.
        """
