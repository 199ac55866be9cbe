"""Fast-AT: one FGSM step from a random start."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.objectives.base import Losses, Moment, Objective


class Fast(Objective):
    """min CE(f(x + d), y), d = clamp(d0 + 1.25 epsilon sign(g), -epsilon, epsilon), d0 uniform (Wong et al., 2020).

    One gradient per step, linf. The source crafts in train mode, so that BatchNorm sees every batch twice; here
    crafting is in eval mode, as for all methods. `attack.steps` is fixed at 1 and its step size at `step_factor` *
    epsilon.
    """

    name: Literal["fast"]
    attack: PGD
    step_factor: float = Field(default=1.25, gt=0)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        single = self.attack.model_copy(
            update={
                "steps": 1,
                "step_size": max(self.step_factor * self.attack.epsilon, torch.finfo(torch.float32).tiny),
            }
        )
        logits = model(single.perturb(model, images, labels, moment.generator)).float()
        return Losses(functional.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = Fast
