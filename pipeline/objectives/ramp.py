"""RAMP: worst case of two norms with logit pairing between them."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.apgd import APGD
from pipeline.attacks.geometry import per_sample
from pipeline.objectives.base import Losses, Moment, Objective
from pipeline.objectives.trades import divergence


class Ramp(Objective):
    """min CE(f(x_b), y) + lambda mean over C of KL(p(x_q) || p(x_r)) (Jiang and Singh, 2024).

    x_q and x_r are APGD's best points in the two norms, x_b the one of the higher loss per sample, C the samples whose
    x_q is classified correctly. Its second half, the fusion with a naturally trained copy after every epoch, is the
    mixture rule `gradient_projection`. Forward passes in train mode as in the source: r, q, then b.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["ramp"]
    attacks: list[APGD] = Field(min_length=2, max_length=2)
    pairing: float = Field(default=5.0, ge=0)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        source, target = (attack.climb(model, images, labels) for attack in self.attacks)
        chosen = torch.where(per_sample(target.best_loss > source.best_loss), target.best, source.best)
        target_logits, source_logits = model(target.best).float(), model(source.best).float()
        logits = model(chosen).float()
        loss = moment.cross_entropy(logits, labels)
        correct = (source_logits.argmax(1) == labels).float()
        paired = moment.part(labels).mean_where(divergence(source_logits, target_logits), correct)
        return Losses(loss + self.pairing * paired, logits.detach())


OBJECTIVE = Ramp
