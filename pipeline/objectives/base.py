"""What every training objective is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.ranks import Part
from pipeline.core.streams import part_of
from pipeline.core.values import Norm, StrictModel, parse_fraction

Share = Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, le=1)]
"""A part of the run, for example 0.25 or '20/80': a method's phases fit a run of any length."""


def _unchanged(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


@dataclass(frozen=True)
class Moment:
    """The moment of training at which a loss is computed."""

    epoch: int
    """From 1."""
    epochs: int | None
    """The last epoch; None for an objective that does not say `asks_for_last_epoch`."""
    generator: torch.Generator
    """The learner's own noise for this step, on the device of the images."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the objective remembers from step to step: numbers, strings, tensors; saved in every checkpoint."""
    label_smoothing: float = 0.0
    """The learner's, see `cross_entropy`."""
    augment: Callable[[Tensor, torch.Generator], Tensor] = _unchanged
    """Crops and mirrors images that an objective brings itself, (batch, channels, height, width), as the minibatch's
    were, of a generator on their device."""

    def part(self, labels: Tensor) -> Part:
        """Which part of the whole batch `labels` are; several processes may share a batch."""
        return part_of(self.generator, len(labels))

    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """The cross-entropy that a learner minimises, in nats: its targets are smoothed as the learner asks.

        With smoothing s the target is 1 - s at the label plus s / classes everywhere (Szegedy et al., 2016). Attacks
        climb the plain cross-entropy: what they look for is a wrong answer.

        Args:
            logits: (batch, classes).
            labels: (batch,), int64.
            reduction: `none` gives (batch,) instead of a scalar.
        """
        return functional.cross_entropy(logits, labels, reduction=reduction, label_smoothing=self.label_smoothing)

    def is_after(self, share: float) -> bool:
        """Whether this share of the epochs is over.

        Raises:
            TypeError: the objective does not say `asks_for_last_epoch`.
        """
        if self.epochs is None:
            raise TypeError("an objective that asks how much of training is over must set asks_for_last_epoch = True")
        return self.epoch > share * self.epochs


@dataclass(frozen=True)
class Losses:
    """What one evaluation of an objective gives."""

    loss: Tensor
    """Scalar to minimise, with its graph."""
    logits: Tensor
    """(batch, classes): the logits that the loss was computed on, for the training accuracy; detached."""
    gradients: list[Tensor | None] | None = None
    """Gradients of the parameters that are trained, in their order, for the whole batch, where an objective makes its
    own (None: those of `loss`); None for parameters that have none."""
    labels: Tensor | None = None
    """(batch,): what `logits` are compared with, where an objective brings images of its own (None: those of the
    minibatch)."""


class Objective(StrictModel):
    """A loss and the inputs it is computed on. Fields are the options that `params.yaml` may give."""

    takes_label_smoothing: ClassVar[bool] = False
    """Whether its loss is made of `Moment.cross_entropy`, so that a learner's label smoothing has a meaning."""
    asks_for_last_epoch: ClassVar[bool] = False
    """Whether what it computes depends on the last epoch (`Moment.epochs`, `Moment.is_after`): a training that is
    made longer then begins anew."""
    needs_feature_maps: ClassVar[bool] = False
    """Whether it looks at `pipeline.models.stages.last_stage` of the network, which not every network has."""

    name: str

    def norms(self) -> tuple[Norm, ...]:
        """The norms that it trains against: those of its fields `attack` and `attacks`."""
        attacks = [getattr(self, "attack", None), *getattr(self, "attacks", ())]
        return tuple(attack.norm for attack in attacks if attack is not None)

    def disturbed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """`images` as this objective sees them before any attack, of the same shape, in [0, 1]: as they are."""
        return images

    @abstractmethod
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        """The loss of `model`, which is in train mode, on one minibatch.

        Args:
            model: Maps images to logits.
            images: (batch, channels, height, width), float32 in [0, 1].
            labels: (batch,), int64.
            moment: Epoch and source of randomness.
        """
