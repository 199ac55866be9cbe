"""AT half-half: the mean of the clean and the adversarial loss."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.objectives.base import Losses, Moment, Objective


class HalfHalf(Objective):
    """min (1 - beta) CE(f(x), y) + beta CE(f(x'), y), x' by PGD (Goodfellow et al., 2015, with beta = 0.5).

    Two separate forward passes in train mode, clean first: BatchNorm normalises each half by its own statistics. There
    is no official modern code; descendants that concatenate both halves mix the statistics.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["half_half"]
    attack: PGD
    beta: float = Field(default=0.5, ge=0, le=1)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        perturbed = self.attack.perturb(model, images, labels, moment.generator)
        clean = moment.cross_entropy(model(images).float(), labels)
        logits = model(perturbed).float()
        adversarial = moment.cross_entropy(logits, labels)
        return Losses((1 - self.beta) * clean + self.beta * adversarial, logits.detach())


OBJECTIVE = HalfHalf
