"""AGR: adaptive gradient reconstruction."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.objectives.base import Losses, Moment, Objective, Share


def reconstruct(adversarial: Tensor, clean: Tensor, longest: float) -> Tensor:
    """One parameter tensor's gradient from its adversarial and clean gradients g_a, g_c with cosine s.

    s <= 0: g_a without its part along g_c; s > 0: s g_c + (1 - s) g_a. Then shortened to a norm of at most `longest`.
    """
    product, length = (adversarial * clean).sum(), clean.norm()
    cosine = product / (adversarial.norm() * length).clamp_min(1e-12)
    projected = adversarial - product / length.square().clamp_min(1e-12) * clean
    gradient = torch.where(cosine > 0, cosine * clean + (1 - cosine) * adversarial, projected)
    shortened: Tensor = gradient * (longest / gradient.norm().clamp_min(1e-12)).clamp_max(1.0)
    return shortened


class Reconstructed(Objective):
    """Adversarial training whose late gradients are rebuilt, tensor by tensor, with the clean ones (Tong et al., 2024).

    Loss: CE(f(x'), y), x' by PGD. After the share `starts_after` of the run each gradient is `reconstruct`ed from
    those of CE(f(x'), y) and CE(f(x), y). Before, plain AT with an extra clean forward pass left out (the source makes
    it and drops its result). Weight decay comes after, in the optimizer. The source cuts only the last iterate of PGD
    to [0, 1]: what it computes to cut the others it does not use.
    """

    takes_label_smoothing: ClassVar[bool] = True
    asks_for_last_epoch: ClassVar[bool] = True

    name: Literal["agr"]
    attack: PGD
    starts_after: Share = 155 / 200
    """Share of the run that is plain AT (source: 155 of 200 epochs)."""
    longest: float = Field(default=0.1, gt=0)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        perturbed = self.attack.perturb(model, images, labels, moment.generator)
        if not moment.is_after(self.starts_after):
            logits = model(perturbed).float()
            return Losses(moment.cross_entropy(logits, labels), logits.detach())
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        part = moment.part(labels)
        clean = part.gradients(moment.cross_entropy(model(images).float(), labels), parameters)
        logits = model(perturbed).float()
        loss = moment.cross_entropy(logits, labels)
        adversarial = part.gradients(loss, parameters)
        gradients = [
            None if ours is None or theirs is None else reconstruct(ours, theirs, self.longest)
            for ours, theirs in zip(adversarial, clean, strict=True)
        ]
        return Losses(loss.detach(), logits.detach(), gradients)


OBJECTIVE = Reconstructed
