"""NT: natural training."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.objectives.base import Losses, Moment, Objective


class Natural(Objective):
    """Cross-entropy on the images as they are: min CE(f(x), y)."""

    name: Literal["natural"]

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        logits = model(images).float()
        return Losses(functional.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = Natural
