"""AT max: per sample, the perturbation type with the highest loss."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.apgd import APGD
from pipeline.attacks.geometry import per_sample
from pipeline.objectives.base import Losses, Moment, Objective


def strongest(attacks: list[APGD], model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The point with the highest loss among each sample's best under `attacks`; ties go to the first."""
    climbs = [attack.climb(model, images, labels) for attack in attacks]
    chosen, highest = climbs[0].best, climbs[0].best_loss
    for climb in climbs[1:]:
        higher = climb.best_loss > highest
        chosen = torch.where(per_sample(higher), climb.best, chosen)
        highest = torch.where(higher, climb.best_loss, highest)
    return chosen


class Maximum(Objective):
    """min mean_i max_p CE(f(x'_{p,i}), y_i), each x'_p by APGD (Tramer and Boneh, 2019; APGD as Jiang and Singh, 2024).

    The maximum is taken per sample over the highest loss that each attack met.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["maximum"]
    attacks: list[APGD] = Field(min_length=1)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        logits = model(strongest(self.attacks, model, images, labels)).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = Maximum
