"""IAT: interpolated adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.core.ranks import ALONE, Ranks
from pipeline.core.streams import on_host
from pipeline.objectives.base import Losses, Moment, Objective


def beta_sample(alpha: float, generator: torch.Generator) -> float:
    """One draw of Beta(alpha, alpha) by Johnk's rejection method, of a generator on the host.

    torch's own Beta distribution takes no generator.
    """
    while True:
        first, second = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        left, right = first ** (1 / alpha), second ** (1 / alpha)
        if 0 < left + right <= 1:
            return float(left / (left + right))


def mixup_loss(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    ratio: float,
    order: Tensor,
    ranks: Ranks = ALONE,
    cross_entropy: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
) -> tuple[Tensor, Tensor]:
    """lam CE(f(z), y) + (1 - lam) CE(f(z), y[order]) for z = lam x + (1 - lam) x[order]; and the logits.

    `order` counts through the rows of all ranks.
    """
    partners, partner_labels = ranks.join(inputs)[order], ranks.join(labels)[order]
    logits = model(ratio * inputs + (1 - ratio) * partners).float()
    loss = ratio * cross_entropy(logits, labels)
    return loss + (1 - ratio) * cross_entropy(logits, partner_labels), logits


class Interpolated(Objective):
    """min 0.5 mixup-CE(x, y) + 0.5 mixup-CE(x', y), x' by PGD on the unmixed images (Lamb et al., 2019).

    lam ~ Beta(alpha, alpha), one for each half, with a permutation of its own. The official code could not be found:
    after re-implementations, which differ in crafting mode and in where they mix (here: input mixup, eval mode, true
    labels). One crafts after the forward pass of the clean half, when BatchNorm's statistics have moved.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["iat"]
    attack: PGD
    alpha: float = Field(default=1.0, gt=0)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        perturbed = self.attack.perturb(model, images, labels, moment.generator)
        losses, part, host = [], moment.part(labels), on_host(moment.generator)
        for inputs in (images, perturbed):
            ratio = beta_sample(self.alpha, host)
            order = torch.randperm(part.total, generator=moment.generator, device=labels.device)
            own = order[part.first : part.last]
            losses.append(mixup_loss(model, inputs, labels, ratio, own, part.ranks, moment.cross_entropy))
        (clean, _), (adversarial, logits) = losses
        return Losses(0.5 * clean + 0.5 * adversarial, logits.detach())


OBJECTIVE = Interpolated
