"""MSD: multi steepest descent."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.geometry import per_sample, project, steepest_direction
from pipeline.attacks.pgd import PGD, frozen
from pipeline.objectives.base import Losses, Moment, Objective


def multi_steepest(attacks: list[PGD], model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Best points of a greedy climb: at every step one candidate per norm, and per sample the one with the highest
    loss.

    Starts at `images`. All attacks take the same number of steps, that of the first.
    """
    with frozen(model) as attacked:

        def losses(points: Tensor) -> Tensor:
            return functional.cross_entropy(attacked(points).float(), labels, reduction="none")

        current = best = images
        highest = torch.full((len(labels),), -torch.inf, device=images.device)
        for _ in range(attacks[0].steps):
            points = current.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(losses(points).sum(), points)
            with torch.no_grad():
                reached = torch.full_like(highest, -torch.inf)
                for attack in attacks:
                    step = attack.step_size * steepest_direction(attack.norm, gradient)
                    candidate = project(attack.norm, points + step, images, attack.epsilon)
                    loss = losses(candidate)
                    # Ties go to the later norm, as in the source.
                    current = torch.where(per_sample(loss >= reached), candidate, current)
                    reached = torch.maximum(reached, loss)
                best = torch.where(per_sample(reached > highest), current, best)
                highest = torch.maximum(highest, reached)
        return best.detach()


class MultiSteepest(Objective):
    """min CE(f(x'), y), x' by multi steepest descent over several norms (Maini et al., 2020).

    Selection is greedy, so x' lies in the union of the balls. The source takes 50 steps in l1, l2 and linf and never
    leaves train mode; here crafting is in eval mode, with the norms and steps of `threat_model`.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["msd"]
    attacks: list[PGD] = Field(min_length=1)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        logits = model(multi_steepest(self.attacks, model, images, labels)).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = MultiSteepest
