"""What a model predicts for a set of images, as they are or under PGD."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.core.devices import Backend
from pipeline.core.ranks import ALONE, Ranks
from pipeline.core.streams import stream
from pipeline.data.images import ImageSet


class Attack(Protocol):
    """Finds adversarial examples."""

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Adversarial examples for `images`; see `PGD.perturb`."""


def channels_last(images: Tensor) -> Tensor:
    """The same images in the memory layout that convolutions are fastest on."""
    return images.contiguous(memory_format=torch.channels_last)


def predictions(
    model: nn.Module,
    images: ImageSet,
    attack: Attack | None,
    seed: int,
    backend: Backend,
    batch_size: int,
    first_batch: int = 0,
    batches: int | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Predicted classes, in the order of `images`.

    Args:
        model: Maps images to logits; used in eval mode, its mode is restored.
        images: On the backend's device.
        attack: Against the true labels (None: images as they are). It may craft in bfloat16.
        seed: Seed of the attack's noise, one stream per batch.
        backend: Device and arithmetic of the crafting; the prediction itself is float32.
        batch_size: Images at once.
        first_batch: The batch to begin with; with `batches`, a slice of the work.
        batches: How many batches (None: to the end).
        ranks: Who share the work; each needs all images, and gets all predictions.

    Returns:
        (n,) int64 on the CPU, n the number of images in the chosen batches.
    """
    was_training = model.training
    model.eval()
    starts = range(first_batch * batch_size, len(images), batch_size)[:batches]
    device = images.images.device
    classes = []
    for start in starts:
        batch = torch.arange(start, min(start + batch_size, len(images)), device=device)
        part = ranks.part(len(batch))
        inputs, labels = images.batch(part.own(batch))
        inputs = channels_last(inputs)
        if attack is not None and len(labels) > 0:
            generator = stream(seed, "batch", start // batch_size, device=device, part=part)
            with backend.autocast():
                inputs = attack.perturb(model, inputs, labels, generator)
        with torch.no_grad():
            classes.append(ranks.join(model(inputs).argmax(1).cpu()))
    model.train(was_training)
    return torch.cat(classes)
