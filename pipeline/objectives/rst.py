"""RST: robust self-training."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.core.errors import RequestError
from pipeline.core.streams import draw
from pipeline.objectives.base import Losses, Moment, Objective


@cache
def extra_images(path: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pseudo-labelled images on `device`: a safetensors file with `images` (n, c, h, w) uint8 and `labels` (n,).

    Raises:
        RequestError: the file is missing or has other contents.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content = load_file(path)
        images, labels = content["images"], content["labels"].long()
    except (OSError, SafetensorError, KeyError) as error:
        raise RequestError(f"extra_images {path}: expected safetensors with 'images' and 'labels' ({error})") from None
    if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise RequestError(f"extra_images {path}: expected uint8 images (n, c, h, w) and labels (n,)")
    return images.to(device), labels.to(device)


def weighted_mean(losses: Tensor, extra_losses: Tensor, weight: float, counts: tuple[float, float]) -> Tensor:
    """[(1 - w) sum(labelled) + w sum(extra)] / [(1 - w) n_labelled + w n_extra], per sample; `counts` are n."""
    total = (1 - weight) * losses.sum() + weight * extra_losses.sum()
    return total / ((1 - weight) * counts[0] + weight * counts[1])


class SelfTraining(Objective):
    """min (1 - beta) L_natural + beta L_robust over labelled and pseudo-labelled images (Raghunathan et al., 2020).

    Both are `weighted_mean`s of CE, at x and at x' (PGD on CE with the label or pseudo-label). Every second image of a
    minibatch is replaced by an extra one, drawn with replacement and augmented like the others. So an epoch sees half
    of the labelled images, as in the source, whose batches of 256 have 128 of each kind. Without a file, the labelled
    data alone, as in the CVPR paper (the source's code fails without extra images): then it equals half-half AT with
    the same beta but for the order of the forward passes (adversarial first, as in the source). The attack's start,
    x + 0.001 N(0, 1), is cut to [0, 1]; the source takes its first gradient before it cuts.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["rst"]
    attack: PGD
    beta: float = Field(default=0.5, ge=0, le=1)
    natural_weight: float = Field(default=0.9, ge=0, lt=1)
    """Weight of extra images in L_natural."""
    robust_weight: float = Field(default=0.5, ge=0, lt=1)
    """Weight of extra images in L_robust."""
    extra_images: Path | None = None
    """Safetensors with `images` (n, channels, height, width) uint8 and pseudo-`labels` (n,)."""

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        part, labelled, extra, extras = moment.part(labels), slice(None), slice(0), 0
        if self.extra_images is not None:
            # Which rows these are depends on their number in the whole minibatch, not on how it is split up.
            labelled, extra = slice(part.first % 2, None, 2), slice((part.first + 1) % 2, None, 2)
            extras, images, labels = part.total // 2, images.clone(), labels.clone()
            pool, pseudo_labels = extra_images(self.extra_images, images.device)
            drawn = draw(partial(torch.randint, len(pool)), labels.shape, moment.generator)
            images[extra] = moment.augment(pool[drawn], moment.generator)[extra].float().div(255)
            labels[extra] = pseudo_labels[drawn][extra]
        counts = (part.total - extras) * part.weight, extras * part.weight
        perturbed = self.attack.perturb(model, images, labels, moment.generator)
        logits = model(perturbed).float()
        robust = moment.cross_entropy(logits, labels, reduction="none")
        natural = moment.cross_entropy(model(images).float(), labels, reduction="none")
        loss = (1 - self.beta) * weighted_mean(natural[labelled], natural[extra], self.natural_weight, counts)
        loss = loss + self.beta * weighted_mean(robust[labelled], robust[extra], self.robust_weight, counts)
        return Losses(loss, logits.detach(), labels=labels)


OBJECTIVE = SelfTraining
