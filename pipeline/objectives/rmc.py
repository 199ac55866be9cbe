"""RMC: training on a path between two networks."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.core.streams import on_host
from pipeline.models.bezier import BezierPath
from pipeline.objectives.base import Losses, Moment, Objective
from pipeline.objectives.msd import multi_steepest


class RobustPath(Objective):
    """min over theta_m of E_t CE(f_phi(t)(x'), y) + weight_decay / 2 ||phi(t)||^2, t ~ U(0, 1) (Wang et al., 2023).

    One t per batch, for crafting and for the update; x' by multi steepest descent. The penalty is on the path's point,
    not on theta_m, so the optimizer's own weight decay should be 0. The path is made by the mixture rule
    `mode_connectivity`; in any other learner it is the learner's network itself. The source crafts in train mode; here
    crafting is in eval mode.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["rmc"]
    attacks: list[PGD] = Field(min_length=1)
    weight_decay: float = Field(default=5e-4, ge=0)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        host = on_host(moment.generator)
        if isinstance(model, BezierPath):
            model.position = torch.rand((), generator=host).item()
        logits = model(multi_steepest(self.attacks, model, images, labels, host)).float()
        weights = model.weights().values() if isinstance(model, BezierPath) else model.parameters()
        squared_norm = torch.stack([weight.float().square().sum() for weight in weights]).sum()
        loss = moment.cross_entropy(logits, labels) + self.weight_decay / 2 * squared_norm
        return Losses(loss, logits.detach())


OBJECTIVE = RobustPath
