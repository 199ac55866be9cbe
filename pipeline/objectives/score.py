"""SCORE: squared distances between probability vectors instead of divergences (LSE)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.pgd import PGD, frozen
from pipeline.objectives.base import Losses, Moment, Objective


def squared_distance(first: Tensor, second: Tensor) -> Tensor:
    """||first - second||^2 over classes, (batch, classes) twice -> (batch,); in [0, 2] for probabilities."""
    return (first - second).square().sum(1)


class Score(Objective):
    """LSE instead of CE (Pang et al., 2022), per sample and with a clip b.

    trades: min mean relu(||p(x) - t||^2 + beta ||p(x') - p(x)||^2 - b), x' maximises ||p(x') - p(x)||^2.
    pgd: min mean relu(||p(x') - t||^2 - b), x' maximises ||p(x') - t||^2.
    t is one-hot, b = c^2 (1 + 1 / (classes - 1)) for the option `clip` c. The source crafts PGD-LSE in train mode; here
    all crafting is in eval mode. In train mode it forwards x' before x, here x comes first: the loss is the same, but
    BatchNorm's running statistics lean to what came last.
    """

    name: Literal["score"]
    attack: PGD
    variant: Literal["trades", "pgd"] = "trades"
    beta: float = Field(default=6.0, ge=0)
    clip: float = Field(default=0.3, ge=0, le=2)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        with frozen(model) as attacked, torch.no_grad():
            reference = attacked(images).float().softmax(1)
        classes = reference.shape[1]
        target = functional.one_hot(labels, classes).float()
        goal = target if self.variant == "pgd" else reference

        def distance_to_goal(logits: Tensor, _: Tensor) -> Tensor:
            return squared_distance(logits.softmax(1), goal).sum()

        perturbed = self.attack.perturb(model, images, labels, moment.generator, distance_to_goal)
        bound = self.clip**2 * (1 + 1 / (classes - 1))
        if self.variant == "pgd":
            logits = model(perturbed).float()
            return Losses(functional.relu(squared_distance(logits.softmax(1), target) - bound).mean(), logits.detach())
        clean = model(images).float().softmax(1)
        logits = model(perturbed).float()
        robust = squared_distance(logits.softmax(1), clean)
        return Losses(
            functional.relu(squared_distance(clean, target) + self.beta * robust - bound).mean(), logits.detach()
        )


OBJECTIVE = Score
