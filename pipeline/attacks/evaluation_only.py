"""Attacks that models are tested with and not trained against: MIM, CW, random noise."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.geometry import TINY, norms, per_sample, project
from pipeline.attacks.pgd import PGD, frozen
from pipeline.core.values import Budget, Closed, Norm


class MomentumPGD(PGD):
    """MIM: PGD along an accumulated gradient, returning the last iterate (Dong et al., 2018).

    Every gradient is divided by its mean absolute value per image and added to `decay` times the sum so far; the step
    is the steepest direction of that sum.
    """

    decay: float = Field(default=1.0, ge=0)
    """mu of the paper; 0 is PGD."""

    @override
    def accumulate(self, gradient: Tensor, before: Tensor) -> Tensor:
        mean = gradient.abs().flatten(1).mean(1).clamp_min(TINY)
        return self.decay * before + gradient / per_sample(mean)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The true class's logit minus the largest other one: (batch, classes), (batch,) -> (batch,)."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    return own - others


class MarginPGD(PGD):
    """CW-linf as the field runs it: PGD on the margin of Carlini and Wagner (2017), -max(z_y - max z_j + kappa, 0)."""

    confidence: float = Field(default=50.0, ge=0)
    """kappa: how far beyond the decision boundary the attack pushes."""

    @override
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -functional.relu(margin(logits, labels) + self.confidence).mean()


class RandomNoise(Closed):
    """The first of several random points on the ball that fools the model; the last one where none does.

    linf: every pixel at +epsilon or -epsilon; l2, l1: a Gaussian direction of length epsilon; then the box. An attack
    with gradients that is no better than this says little about robustness.
    """

    norm: Norm
    epsilon: Budget
    draws: int = Field(default=100, ge=1)

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy `images`; see `PGD.perturb`."""
        found, fooled = images, torch.zeros(len(images), dtype=torch.bool, device=images.device)
        with frozen(model) as attacked, torch.no_grad():
            for _ in range(self.draws):
                noise = torch.randn(images.shape, generator=generator, device=images.device)
                if self.norm == "linf":
                    noise = noise.sign() * self.epsilon
                else:
                    noise = noise * per_sample(self.epsilon / norms(self.norm, noise).clamp_min(TINY))
                drawn = project(self.norm, images + noise, images, self.epsilon)
                found = torch.where(per_sample(fooled), found, drawn)
                fooled |= attacked(found).argmax(1) != labels
        return found
