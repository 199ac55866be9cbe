"""NT: natural training."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

from pipeline.objectives.base import Losses, Moment, Objective


class Natural(Objective):
    """Cross-entropy on the images as they are: min CE(f(x), y)."""

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["natural"]

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        logits = model(images).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = Natural
