"""The attacks of AutoAttack (Croce and Hein, 2020) through its authors' own package, one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import AutoAttackMember, AutoAttackSettings

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


PACKAGES = ("autoattack", "pyautoattack")
"""The same code by the same authors; the first that is installed is used."""


TARGETS = 9
"""Classes that targeted attacks aim at, as many as there are; the package's own number, which it takes as given."""


def ensemble(model: nn.Module, settings: AutoAttackSettings, seed: int) -> dict[AutoAttackMember, Perturb]:
    """The attacks that `settings` names, in its order.

    Args:
        model: In eval mode; maps float32 images in [0, 1] to logits of at least four classes.
        settings: Norm, radius and members.
        seed: Set anew before every call, as the package does, so that each call is a function of its inputs alone.
    """
    package = import_module(next(name for name in PACKAGES if find_spec(name)))
    device = next(model.parameters()).device
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[settings.norm]
    suite = package.AutoAttack(
        _Viewable(model).eval(), norm=norm, eps=settings.epsilon, seed=seed, version="standard", device=device
    )
    suite.fab.targeted = True
    members = {"apgd_t": suite.apgd_targeted, "fab_t": suite.fab, "square": suite.square}

    def perturb(name: AutoAttackMember, images: Tensor, labels: Tensor) -> Tensor:
        member = members.get(name, suite.apgd)
        if member is suite.apgd:
            member.loss = name.removeprefix("apgd_")
        member.seed = seed
        with torch.no_grad():
            others = model(images[:1]).shape[1] - 1
        suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(TARGETS, others)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            adversarial: Tensor = member.perturb(images.contiguous(), labels)
        return adversarial.detach()

    return {name: partial(perturb, name) for name in settings.members}
