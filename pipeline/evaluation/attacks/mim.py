"""The momentum iterative method (Dong et al., 2018)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from pipeline.attacks.geometry import TINY, per_sample
from pipeline.attacks.pgd import PGD
from pipeline.core.values import Real
from pipeline.evaluation.attacks.base import SteppedAttack


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


class MIMAttack(SteppedAttack):
    """The momentum iterative method."""

    label: ClassVar[str] = "MIM"
    crafted_by: ClassVar[type[PGD]] = MomentumPGD
    name: Literal["mim"]
    decay: Real = Field(default=1.0, ge=0)
    """mu: how much of the accumulated gradient stays."""


ATTACK = MIMAttack
