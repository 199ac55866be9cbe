"""Projected gradient descent in the linf, l2 and l1 balls around images in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.geometry import TINY, norms, per_sample, project, steepest_direction
from pipeline.core.streams import draw
from pipeline.core.values import AttackBudget, Norm
from pipeline.models.folding import folded

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(logits, labels) -> scalar to maximise."""


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Give what to craft against: `model` in eval mode, without parameter gradients, with BatchNorm folded away.

    BatchNorm statistics stay untouched, and the backward pass computes input gradients alone: a third of the work of a
    training step's backward pass is saved. Modes are restored afterwards.
    """
    modes = {module: module.training for module in model.modules()}
    requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in requires_grad:
        parameter.requires_grad_(False)
    try:
        yield folded(model)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, needed in requires_grad:
            parameter.requires_grad_(needed)


class PGD(AttackBudget):
    """PGD, returning the last iterate (Madry et al., 2018; Generalist++ eq. 1).

    Steps along the steepest direction of the norm (linf: sign(g), l2: g / ||g||_2, l1: the sign on the 5 % of
    coordinates with the largest |g|, shared equally); after every step the ball, then the box [0, 1].
    """

    norm: Norm
    start: Literal["ball", "gaussian", "zero"] = "ball"
    """`ball`: at random in the ball (linf uniform; l2, l1 a Gaussian direction with a uniform length); `gaussian`:
    0.001 N(0, 1) (TRADES, MART, SCORE); `zero`: at the images."""

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        loss_function: LossFunction | None = None,
        radius: Tensor | None = None,
    ) -> Tensor:
        """Adversarial examples for `images`.

        Args:
            model: Maps images to logits; attacked in eval mode with frozen parameters.
            images: (batch, channels, height, width), float32 in [0, 1].
            labels: (batch,), int64.
            generator: Source of the random start, on the device of `images`.
            loss_function: What is maximised, of (logits in float32, labels); None: `loss`.
            radius: linf only: a radius for every pixel, of the shape of `images` (None: `epsilon` everywhere).

        Returns:
            Detached images of the same shape, in [0, 1] and within `epsilon` (or `radius`) of `images` in the norm.
        """
        bound = self.epsilon if radius is None else radius
        maximised, direction = loss_function or self.loss, torch.zeros_like(images)
        with frozen(model) as attacked:
            perturbed = project(self.norm, self.starting_points(images, generator), images, bound)
            for _ in range(self.steps):
                perturbed.requires_grad_(True)
                loss = maximised(attacked(perturbed).float(), labels)
                (gradient,) = torch.autograd.grad(loss, perturbed)
                with torch.no_grad():
                    direction = self.accumulate(gradient, direction)
                    step = self.step_size * steepest_direction(self.norm, direction)
                    perturbed = project(self.norm, perturbed + step, images, bound)
            return perturbed.detach()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is maximised unless `perturb` is told otherwise: the mean cross-entropy."""
        return functional.cross_entropy(logits, labels)

    def accumulate(self, gradient: Tensor, before: Tensor) -> Tensor:
        """What the next step follows, of the gradient and of what the step before followed (zeros at the start)."""
        return gradient

    def starting_points(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Where the attack begins, in the ball and the box."""
        if self.start == "zero":
            return images.clone()
        if self.start == "gaussian":
            noise = 0.001 * draw(torch.randn, images.shape, generator)
        elif self.norm == "linf":
            noise = (2 * draw(torch.rand, images.shape, generator) - 1) * self.epsilon
        else:
            direction = draw(torch.randn, images.shape, generator)
            lengths = draw(torch.rand, (len(images), 1, 1, 1), generator)
            noise = self.epsilon * lengths * direction / per_sample(norms(self.norm, direction).clamp_min(TINY))
        return project(self.norm, images + noise, images, self.epsilon)
