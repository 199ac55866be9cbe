"""PGD on the margin of Carlini and Wagner (2017)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.core.values import Real
from pipeline.evaluation.attacks.base import SteppedAttack


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


class CWAttack(SteppedAttack):
    """PGD on the margin of Carlini and Wagner."""

    label: ClassVar[str] = "CW"
    crafted_by: ClassVar[type[PGD]] = MarginPGD
    name: Literal["cw"]
    confidence: Real = Field(default=50.0, ge=0)
    """kappa."""


ATTACK = CWAttack
