"""AT: adversarial training in one norm."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.objectives.base import Losses, Moment, Objective


class Adversarial(Objective):
    """Cross-entropy on PGD examples: min CE(f(x'), y), x' the last PGD iterate (Madry et al., 2018).

    Generalist++ eq. (1) with beta = 1. The examples are crafted in eval mode with frozen parameters; the loss is taken
    in train mode, with one update of the BatchNorm statistics per step.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["adversarial"]
    attack: PGD

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        perturbed = self.attack.perturb(model, images, labels, moment.generator)
        logits = model(perturbed).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = Adversarial
