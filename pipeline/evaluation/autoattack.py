"""The attacks of AutoAttack (Croce and Hein, 2020) through its authors' own package, one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pyautoattack
import torch
from pyautoattack import checks
from torch import Tensor, nn

from pipeline.data.images import ImageSet
from pipeline.evaluation.attacks.autoattack import AutoAttack, AutoAttackMember
from pipeline.models.folding import folded

Perturb = Callable[[Tensor, Tensor], Tensor]
"""(images, labels) -> adversarial images; images that could not be fooled may come back as they were."""


class _ChannelsLast(torch.autograd.Function):
    """Images to the layout that convolutions are fastest on, gradients back to the one that the package can `view`."""

    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


class _Viewable(nn.Module):
    """`model` for callers that flatten images and gradients with `view`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(_ChannelsLast.apply(images))
        return logits


class Remembered(nn.Module):
    """`model` for callers that ask for the same small images again and again; every image is forwarded once.

    Square in linf sets squares of pixels to the ends of the ball: on 8 x 8 images nine of ten of its 5,000 queries are
    images that it asked for before. Logits may differ by rounding from those of another batch, as batches always do.

    Args:
        model: In eval mode; each image's logits are independent of the others.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._logits: dict[bytes, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, classes), without a gradient."""
        keys = [row.tobytes() for row in images.flatten(1).cpu().numpy()]
        new = {key: place for place, key in enumerate(keys) if key not in self._logits}
        if new:
            logits = self.model(images[list(new.values())])
            self._logits.update(zip(new, logits.unbind(), strict=True))
        return torch.stack([self._logits[key] for key in keys])


class _Cropped(nn.Module):
    """`model` for callers that ask for images which were made square; it sees them as they were."""

    def __init__(self, model: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.model, self.height, self.width = model, height, width

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, side, side) -> (batch, classes)."""
        logits: Tensor = self.model(images[:, :, : self.height, : self.width].contiguous())
        return logits


REPEATED = 256
"""Values of an image up to which Square in linf repeats itself. Larger ones it never asks for twice."""
FLAG_IMAGES = 64
"""How many images the package's checks look at."""


def flags(model: nn.Module, images: ImageSet) -> dict[str, str]:
    """What the package's own checks say before it attacks: each is a reason why its gradients may mislead it.

    Args:
        model: In eval mode; maps float32 images in [0, 1] to logits.
        images: On the model's device; the first 64 are looked at.

    Returns:
        By check, the package's warning, "" where there is none: whether outputs are random, are probabilities, are made
        with gradients of the model's own (a defense that optimizes at test time), or have no gradient at some image.
    """
    viewable = _Viewable(model).eval()
    inputs, truth = images.batch(torch.arange(min(FLAG_IMAGES, len(images)), device=images.images.device))
    leaves = inputs.clone().requires_grad_()
    loss = nn.functional.cross_entropy(viewable(leaves), truth, reduction="sum")
    gradient = torch.autograd.grad(loss, leaves)[0].contiguous()
    calls: dict[str, Callable[[Any], object]] = {
        "outputs are random": lambda log: checks.check_randomized(viewable, inputs, truth, logger=log),
        "outputs are probabilities": lambda log: checks.check_range_output(viewable, inputs, logger=log),
        "the model optimizes at test time": lambda log: _check_dynamic(viewable, inputs, log),
        "gradients are zero": lambda log: checks.check_zero_gradients(gradient, logger=log),
    }
    found = {}
    for name, call in calls.items():
        warnings: list[str] = []
        call(SimpleNamespace(warning=warnings.append))
        found[name] = " ".join(warning.partition(" See ")[0].strip() for warning in warnings)
    return found


def _check_dynamic(model: nn.Module, images: Tensor, log: Any) -> None:
    """The package counts calls of the autograd machinery in a global table, and ends any trace that a debugger set."""
    trace = sys.gettrace()
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        checks.check_dynamic(model, images, logger=log)
    finally:
        sys.settrace(trace)


def ensemble(model: nn.Module, settings: AutoAttack, seed: int) -> dict[AutoAttackMember, Perturb]:
    """The attacks that `settings` names, in its order.

    Args:
        model: In eval mode; maps float32 images in [0, 1] to logits of as many classes as each member needs. Attacked
            with BatchNorm folded: who is fooled is for the caller to decide, on the network as it is.
        settings: Norm, radius, members and their effort.
        seed: Set anew before every call, as the package does, so that each call is a function of its inputs alone.
    """
    device = next(model.parameters()).device
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[settings.norm]
    viewable = _Viewable(folded(model)).eval()
    suite = pyautoattack.AutoAttack(
        viewable, norm=norm, eps=settings.epsilon, seed=seed, version="standard", device=device
    )
    suite.fab.targeted = True
    suite.square.n_queries = settings.queries
    members = {"apgd_t": suite.apgd_targeted, "fab_t": suite.fab, "square": suite.square}

    def perturb(name: AutoAttackMember, images: Tensor, labels: Tensor) -> Tensor:
        member, inputs, (height, width) = members.get(name, suite.apgd), images, images.shape[2:]
        if member is suite.square:
            repeats = norm == "Linf" and device.type == "cpu" and images[0].numel() <= REPEATED
            predict = Remembered(viewable) if repeats else viewable
            suite.square.predict = predict if height == width else _Cropped(predict, height, width)
            # It takes square images alone. What it changes of the black border is cut off, which shortens the change.
            inputs = nn.functional.pad(images, (0, max(height - width, 0), 0, max(width - height, 0)))
        if member is suite.apgd:
            member.loss = name.removeprefix("apgd_")
        member.seed = seed
        with torch.no_grad():
            others = model(images[:1]).shape[1] - 1
        suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(settings.targets, others)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            adversarial: Tensor = member.perturb(inputs.contiguous(), labels)
        return adversarial[:, :, :height, :width].detach()

    return {name: partial(perturb, name) for name in settings.members}
