"""Random points on the ball."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.geometry import TINY, norms, per_sample, project
from pipeline.attacks.pgd import frozen
from pipeline.config.evaluation import Passes, SingleAttack
from pipeline.core.values import Whole


class NoiseAttack(SingleAttack):
    """The first of several random points on the ball that fools the model; the last one where none does.

    linf: every pixel at +epsilon or -epsilon; l2, l1: a Gaussian direction of length epsilon; then the box. An attack
    with gradients that is no better than this says little about robustness.
    """

    label: ClassVar[str] = "random noise"
    name: Literal["noise"]
    draws: Whole = Field(default=100, ge=1)
    """An image must be classified correctly at all of them."""

    @override
    def passes(self) -> Passes:
        return Passes(forwards=self.draws)

    @override
    def effort(self) -> str:
        return f"{self.draws} draws"

    @override
    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
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


ATTACK = NoiseAttack
