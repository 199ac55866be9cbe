"""What attacks with a fixed number of gradient steps share."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.config.evaluation import Passes, SingleAttack
from pipeline.core.values import Positive, Whole


class SteppedAttack(SingleAttack):
    """A variant of PGD, with a random start; the last iterate counts."""

    crafted_by: ClassVar[type[PGD]] = PGD
    """It takes the same options."""
    step_size: Positive
    steps: Whole = Field(ge=1)

    @override
    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        attack = self.crafted_by(**self.model_dump(exclude={"name", "images"}))
        return attack.perturb(model, images, labels, generator)

    @override
    def passes(self) -> Passes:
        return Passes(gradients=self.steps)

    @override
    def effort(self) -> str:
        return f"{self.steps} steps"
