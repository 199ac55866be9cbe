"""AT average: the mean of the losses over perturbation types."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.objectives.base import Losses, Moment, Objective


class Average(Objective):
    """min mean over norms p of CE(f(x'_p), y), each x'_p by PGD (Tramer and Boneh, 2019).

    One forward pass and one step on the averaged loss, as its text says: all x'_p in one train-mode batch. Another
    published implementation makes one optimizer step per norm instead, which is not an average.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["average"]
    attacks: list[PGD] = Field(min_length=1)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        perturbed = [attack.perturb(model, images, labels, moment.generator) for attack in self.attacks]
        logits = model(torch.cat(perturbed)).float()
        loss = moment.cross_entropy(logits, labels.repeat(len(perturbed)))
        return Losses(loss, logits[: len(labels)].detach())


OBJECTIVE = Average
