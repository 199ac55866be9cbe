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
from pipeline.core.streams import on_host
from pipeline.objectives.base import Losses, Moment, Objective

FEWEST, MOST = 5, 20
"""How many coordinates an l1 step moves."""


def movable_signs(gradient: Tensor, points: Tensor, step_size: float, coordinates: int) -> Tensor:
    """An l1 direction: sign(gradient) / `coordinates` at those with the largest gradients among the ones that can move.

    A coordinate can move where it is inside the box and further than its own share of the step from the edge that the
    gradient points to. Where fewer can than are asked for, these alone move.

    Args:
        gradient: (batch, channels, height, width).
        points: Where the step begins, of the same shape, in [0, 1].
        step_size: The l1 length of the whole step.
        coordinates: How many move; all of an image that has fewer.
    """
    share = step_size / coordinates
    ends_above, ends_below = (gradient > 0) & (points >= 1 - share), (gradient < 0) & (points <= share)
    stuck = ends_above | ends_below | (points <= 0) | (points >= 1)
    movable = gradient.masked_fill(stuck, 0.0)
    magnitudes = movable.flatten(1).abs()
    threshold = magnitudes.topk(min(coordinates, magnitudes.shape[1]), dim=1).values[:, -1]
    return movable.sign() * (movable.abs() >= per_sample(threshold)) / coordinates


def multi_steepest(
    attacks: list[PGD], model: nn.Module, images: Tensor, labels: Tensor, host: torch.Generator
) -> Tensor:
    """Best points of a greedy climb: at every step one candidate per norm, and per sample the one with the highest
    loss.

    Starts at `images`. All attacks take the same number of steps, that of the first. An l1 step moves from 5 to 20
    coordinates, as many of every sample, drawn anew for every step of `host`, a generator of the host.
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
                    if attack.norm == "l1":
                        coordinates = int(torch.randint(FEWEST, MOST + 1, (), generator=host))
                        direction = movable_signs(gradient, points, attack.step_size, coordinates)
                    else:
                        direction = steepest_direction(attack.norm, gradient)
                    candidate = project(attack.norm, points + attack.step_size * direction, images, attack.epsilon)
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
    leaves train mode; here crafting is in eval mode, with the norms and steps of `threat_model`. Where one sample of a
    batch leaves the l1 ball, the source lengthens the others' perturbations to its surface, and cuts all to [0, 1]
    after that; here each goes to the nearest point of ball and box.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["msd"]
    attacks: list[PGD] = Field(min_length=1)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        logits = model(multi_steepest(self.attacks, model, images, labels, on_host(moment.generator))).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = MultiSteepest
