"""TRADES: clean loss plus the divergence between clean and adversarial predictions."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.pgd import PGD, frozen
from pipeline.objectives.base import Losses, Moment, Objective


def divergence(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """KL(p(x) || p(x')), (batch, classes) twice -> (batch,)."""
    target = functional.log_softmax(clean_logits, dim=1)
    return functional.kl_div(
        functional.log_softmax(adversarial_logits, dim=1), target, reduction="none", log_target=True
    ).sum(1)


def divergence_attack(
    attack: PGD, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """PGD that maximises KL(p(x) || p(x')) with p(x) fixed; see `PGD.perturb`."""
    with frozen(model) as attacked, torch.no_grad():
        clean = attacked(images).float()
    return attack.perturb(model, images, labels, generator, lambda logits, _: divergence(clean, logits).sum())


class Trades(Objective):
    """min CE(f(x), y) + beta KL(p(x) || p(x')), x' maximises the same KL (Zhang et al., 2019).

    The attack starts at x + 0.001 N(0, 1): at x itself the gradient of the KL is zero. Where that leaves [0, 1] it is
    cut; the source takes its first gradient before it cuts. Gradients flow through both predictions of the outer loss.
    The source forwards the clean batch twice in train mode, once for each term; here it is forwarded once, so that
    BatchNorm sees it once.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["trades"]
    attack: PGD
    beta: float = Field(ge=0)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        perturbed = divergence_attack(self.attack, model, images, labels, moment.generator)
        clean = model(images).float()
        adversarial = model(perturbed).float()
        loss = moment.cross_entropy(clean, labels) + self.beta * divergence(clean, adversarial).mean()
        return Losses(loss, adversarial.detach())


OBJECTIVE = Trades
