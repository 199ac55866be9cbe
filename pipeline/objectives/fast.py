"""Fast-AT: one FGSM step from a random start."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, StrictBool
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.pgd import PGD, frozen
from pipeline.core.streams import draw
from pipeline.objectives.base import Losses, Moment, Objective


class Fast(Objective):
    """min CE(f(x + d), y), d = clamp(d0 + 1.25 epsilon sign(g), -epsilon, epsilon), d0 uniform (Wong et al., 2020).

    One gradient per step, linf. The source crafts in train mode, so that BatchNorm sees every batch twice; here
    crafting is in eval mode, as for all methods. `attack.steps` is fixed at 1 and its step size at `step_factor` *
    epsilon.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["fast"]
    attack: PGD
    step_factor: float = Field(default=1.25, gt=0)
    clip_noise: StrictBool = Field(default=True, exclude_if=bool)
    """Move from x + d0 cut to [0, 1], as the source does on CIFAR-10. False: from x + d0, of which only the image that
    the network sees is cut, as on ImageNet; then pixels that d0 takes out of [0, 1] have no gradient, and stay."""

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        step_size = max(self.step_factor * self.attack.epsilon, torch.finfo(torch.float32).tiny)
        if self.clip_noise:
            single = self.attack.model_copy(update={"steps": 1, "step_size": step_size})
            perturbed = single.perturb(model, images, labels, moment.generator)
        else:
            perturbed = self._perturb_unclipped(model, images, labels, moment.generator, step_size)
        logits = model(perturbed).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())

    def _perturb_unclipped(
        self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator, step_size: float
    ) -> Tensor:
        radius = self.attack.epsilon
        noise = ((2 * draw(torch.rand, images.shape, generator) - 1) * radius).requires_grad_(True)
        with frozen(model) as attacked:
            loss = functional.cross_entropy(attacked((images + noise).clamp(0, 1)).float(), labels)
            (gradient,) = torch.autograd.grad(loss, noise)
        moved = (noise.detach() + step_size * gradient.sign()).clamp(-radius, radius)
        return (images + moved).clamp(0, 1)


OBJECTIVE = Fast
