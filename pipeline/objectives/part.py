"""PART: pixel-reweighted adversarial training."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.pgd import PGD, frozen
from pipeline.models.stages import last_stage
from pipeline.objectives.base import Losses, Moment, Objective, Share


def class_activation(model: nn.Module, images: Tensor) -> Tensor:
    """Grad-CAM of the predicted class at the network's last stage, (batch, h, w) of the image's size, in [0, 1].

    Vectorised: samples do not interact in eval mode, so one backward pass serves the whole batch.

    Raises:
        RequestError: the network has no feature maps.
    """
    features: list[Tensor] = []
    handle = last_stage(model, images).register_forward_hook(lambda module, inputs, output: features.append(output))
    try:
        with frozen(model):
            logits = model(images.detach().requires_grad_(True)).float()
            (gradient,) = torch.autograd.grad(logits.amax(1).sum(), features[0])
    finally:
        handle.remove()
    weights = gradient.float().mean((2, 3), keepdim=True)
    maps = functional.relu((weights * features[0].detach().float()).sum(1, keepdim=True))
    maps = functional.interpolate(maps, size=images.shape[2:], mode="bicubic", align_corners=False).squeeze(1)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


def jet(values: Tensor) -> Tensor:
    """The 'jet' colour map: (batch, h, w) in [0, 1] -> (batch, 3, h, w) in [0, 1]."""
    centres = torch.linspace(0.75, 0.25, 3, device=values.device).view(1, 3, 1, 1)
    return (1.5 - 4 * (values.unsqueeze(1) - centres).abs()).clamp(0, 1)


def radii(model: nn.Module, images: Tensor, epsilon: float, epsilon_low: float) -> Tensor:
    """Radius of every pixel and channel: `epsilon` where the standardised squared map exceeds 1, `epsilon_low`
    elsewhere.

    Colour images: the map is coloured by `jet` first, as the source does, so that red and blue pixels differ. About one
    radius in twenty is the other one in the source: its colours are those of matplotlib, which differ from the plain
    ones of `jet` by up to 0.13; it enlarges maps with Pillow's bicubic kernel (a = -0.5), not torch's (-0.75); and it
    scales them to [0, 1] before that, not after.
    """
    activation = class_activation(model, images).square()
    scores = jet(activation) if images.shape[1] == 3 else activation.unsqueeze(1).expand_as(images)
    flat = scores.flatten(1)
    standard = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True).clamp_min(1e-12)
    return torch.where(standard.view_as(scores) > 1, epsilon, epsilon_low)


class PixelReweighted(Objective):
    """min CE(f(x'), y), x' by PGD in linf with a radius per pixel from a class-activation map (Zhang et al., 2024).

    Plain AT in the first share `warmup` of the run. Masks are computed on the very batch that they are applied to; the
    source computes them in another pass over differently shuffled and augmented images, so that each image gets
    another's mask. The start, uniform in the ball of `epsilon`, is cut to the radii and to [0, 1]; the source's is not
    cut before its first step. `radii` says where masks differ.
    """

    takes_label_smoothing: ClassVar[bool] = True
    asks_for_last_epoch: ClassVar[bool] = True
    needs_feature_maps: ClassVar[bool] = True

    name: Literal["part"]
    attack: PGD
    low_factor: float = Field(default=7 / 8, ge=0, le=1)
    """epsilon_low / epsilon (source: 7/255 for 8/255)."""
    warmup: Share = 20 / 120
    """Source: 20 epochs of 80; with the papers' schedule, 20 of 120."""

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        radius = None
        if moment.is_after(self.warmup):
            radius = radii(model, images, self.attack.epsilon, self.low_factor * self.attack.epsilon)
        perturbed = self.attack.perturb(model, images, labels, moment.generator, radius=radius)
        logits = model(perturbed).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = PixelReweighted
