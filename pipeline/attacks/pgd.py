"""Projected gradient descent in the linf and l2 balls around images in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import AttackBudget, Norm

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(logits, labels) -> scalar to maximise."""

TINY = 1e-12


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Craft against `model` in eval mode and without parameter gradients; its modes are restored afterwards.

    BatchNorm statistics stay untouched, and the backward pass computes input gradients alone: a third of the work of a
    training step's backward pass is saved.
    """
    modes = {module: module.training for module in model.modules()}
    requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in requires_grad:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, needed in requires_grad:
            parameter.requires_grad_(needed)


class PGD(AttackBudget):
    """PGD with a random start, returning the last iterate (Madry et al., 2018; Generalist++ eq. 2).

    linf: start uniform in the ball, x <- x + step_size * sign(g). l2: start at a Gaussian direction with a uniform
    length in [0, epsilon], x <- x + step_size * g / ||g||_2. After every step the ball, then the box [0, 1].
    """

    norm: Norm

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        loss_function: LossFunction = functional.cross_entropy,
    ) -> Tensor:
        """Adversarial examples for `images`.

        Args:
            model: Maps images to logits; attacked in eval mode with frozen parameters.
            images: (batch, channels, height, width), float32 in [0, 1].
            labels: (batch,), int64.
            generator: Source of the random start, on the device of `images`.
            loss_function: What is maximised, of (logits in float32, labels).

        Returns:
            Detached images of the same shape, in [0, 1] and within `epsilon` of `images` in the attack's norm.
        """
        with frozen(model):
            perturbed = project(self.norm, images + self._random_start(images, generator), images, self.epsilon)
            for _ in range(self.steps):
                perturbed.requires_grad_(True)
                loss = loss_function(model(perturbed).float(), labels)
                (gradient,) = torch.autograd.grad(loss, perturbed)
                with torch.no_grad():
                    step = self.step_size * steepest_direction(self.norm, gradient)
                    perturbed = project(self.norm, perturbed + step, images, self.epsilon)
            return perturbed.detach()

    def _random_start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.norm == "linf":
            noise = torch.rand(images.shape, generator=generator, device=images.device)
            return (2 * noise - 1) * self.epsilon
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        lengths = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
        return self.epsilon * lengths * noise / l2_norms(noise)


def l2_norms(tensor: Tensor) -> Tensor:
    """Per-sample l2 norms, (batch, 1, 1, 1), never below 1e-12 so that they can divide."""
    norms: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
    return norms.clamp_min(TINY).view(-1, 1, 1, 1)


def steepest_direction(norm: Norm, gradient: Tensor) -> Tensor:
    """The unit vector of `norm` along which the loss grows fastest, per sample; zero where the gradient is zero."""
    return gradient.sign() if norm == "linf" else gradient / l2_norms(gradient)


def project(norm: Norm, perturbed: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The point of the ball around `images` (then of the box [0, 1]) that belongs to `perturbed`.

    The order does not matter for feasibility: clipping to the box never makes a perturbation of an image in the box
    larger in any coordinate.
    """
    perturbation = perturbed - images
    if norm == "linf":
        perturbation = perturbation.clamp(-epsilon, epsilon)
    else:
        perturbation = perturbation * (epsilon / l2_norms(perturbation)).clamp_max(1.0)
    return (images + perturbation).clamp(0.0, 1.0)
