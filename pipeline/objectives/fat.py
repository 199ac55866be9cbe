"""FAT: friendly adversarial training."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.friendly import FriendlyPGD
from pipeline.objectives.base import Losses, Moment, Objective, Share


class Friendly(Objective):
    """min CE(f(x'), y), x' by PGD that stops tau steps after a sample is first misclassified (Zhang et al., 2020).

    tau is 0 at first and grows by one after each of the shares `tau_grows_after` of the run. The order of samples is
    kept (the source returns stopped samples first and permutes the labels alike).
    """

    takes_label_smoothing: ClassVar[bool] = True
    asks_for_last_epoch: ClassVar[bool] = True

    name: Literal["fat"]
    attack: FriendlyPGD
    tau_grows_after: tuple[Share, ...] = (50 / 120, 90 / 120)
    """Shares of the run after which tau is 1, 2, ... (source: epochs 50 and 90 of 120)."""

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        patience = sum(moment.is_after(share) for share in self.tau_grows_after)
        perturbed, _ = self.attack.perturb_friendly(model, images, labels, moment.generator, patience)
        logits = model(perturbed).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = Friendly
