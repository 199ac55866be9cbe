"""Training on randomly corrupted images: the expert in common corruptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.geometry import per_sample
from pipeline.core.streams import draw
from pipeline.objectives.base import Losses, Moment, Objective, Share

Kind = Literal["gaussian_noise", "impulse_noise", "brightness", "contrast", "blur"]
Strength = Tensor
"""(batch, 1, 1, 1), in [0, 1]."""


def gaussian_noise(images: Tensor, strength: Strength, generator: torch.Generator) -> Tensor:
    """Normal noise with a standard deviation of up to 0.25."""
    return images + 0.25 * strength * draw(torch.randn, images.shape, generator)


def impulse_noise(images: Tensor, strength: Strength, generator: torch.Generator) -> Tensor:
    """Up to a quarter of all values become black or white."""
    chosen, values = (draw(torch.rand, images.shape, generator) for _ in range(2))
    return torch.where(chosen < 0.25 * strength, values.round(), images)


def brightness(images: Tensor, strength: Strength, generator: torch.Generator) -> Tensor:
    """Up to half of the range brighter or darker."""
    return images + strength * per_sample(draw(torch.rand, (len(images),), generator) - 0.5)


def contrast(images: Tensor, strength: Strength, generator: torch.Generator) -> Tensor:
    """Up to 90 % of the way to the image's mean."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (1 - 0.9 * strength) * (images - mean)


def blur(images: Tensor, strength: Strength, generator: torch.Generator) -> Tensor:
    """Up to all of the way to the mean of each pixel's 3 x 3 neighbours."""
    blurred = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    return images + strength * (blurred - images)


KINDS: dict[Kind, Callable[[Tensor, Strength, torch.Generator], Tensor]] = {
    "gaussian_noise": gaussian_noise,
    "impulse_noise": impulse_noise,
    "brightness": brightness,
    "contrast": contrast,
    "blur": blur,
}


class Corruptions(Objective):
    """Cross-entropy on images with one random corruption each: min CE(f(c(x)), y).

    Every image meets one of `kinds`, drawn anew every step, with a uniform strength. They are simpler relatives of some
    corruptions that `stages.ood` measures, made in a batch on the device: what is measured there is not unseen. No
    source: the papers have no such learner.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["corruptions"]
    kinds: list[Kind] = Field(default=list(KINDS), min_length=1)
    most: Share = 1.0
    """The greatest strength."""

    @override
    def disturbed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        chosen, strength = (draw(torch.rand, (len(images),), generator) for _ in range(2))
        corrupted = images
        for number, kind in enumerate(self.kinds):
            own = per_sample((chosen * len(self.kinds)).floor() == number)
            corrupted = torch.where(own, KINDS[kind](images, per_sample(self.most * strength), generator), corrupted)
        return corrupted.clamp(0, 1)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        logits = model(self.disturbed(images, moment.generator)).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = Corruptions
