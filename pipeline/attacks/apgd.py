"""Auto-PGD on cross-entropy as an inner maximiser (Croce and Hein, 2020; l1: Croce and Hein, 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.geometry import per_sample, project, sparse_sign, steepest_direction
from pipeline.attacks.pgd import frozen
from pipeline.core.values import Budget, Norm, StrictModel

OSCILLATION = 0.75
"""rho: a step size is halved when no more than this share of a window's steps raised the loss."""


@dataclass
class Climb:
    """Where every sample of the batch stands, and the best that it has seen."""

    images: Tensor
    current: Tensor
    gradient: Tensor
    best: Tensor
    """The point of the highest loss, the start included."""
    best_gradient: Tensor
    best_loss: Tensor
    """(batch,)"""
    correct: Tensor
    """(batch,) bool: classified correctly at every point so far."""
    fooling: Tensor
    """The last point that was misclassified; the start where there is none."""


class APGD(StrictModel):
    """Auto-PGD: momentum, step sizes that halve when the loss stalls, restarts from the best point. No random start.

    linf, l2: first step 2 * epsilon, momentum 0.75, checkpoints after 22 % of the steps and then ever shorter windows.
    l1: first step epsilon on the 5 % steepest coordinates; sparsity follows that of the best point.
    """

    norm: Norm
    epsilon: Budget
    steps: int = Field(ge=1)
    sparsity: float = Field(default=0.05, gt=0, le=1)
    """l1: share of the coordinates that the first step moves (0.05 in training, 0.2 in AutoAttack)."""

    def climb(self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Climb:
        """Maximise the cross-entropy of each sample.

        Args:
            model: Maps images to logits; attacked in eval mode with frozen parameters.
            images: (batch, channels, height, width), float32 in [0, 1].
            labels: (batch,), int64.
            start: Where to begin (None: at `images`), in the ball.

        Returns:
            The state after the last step: `best` has the highest loss met, `correct` says who was never fooled.
        """
        with frozen(model) as attacked:
            begin = (images if start is None else start).clamp(0.0, 1.0)
            loss, gradient, correct = _evaluate(attacked, begin, labels)
            state = Climb(images, begin, gradient, begin, gradient, loss, correct, begin)
            schedule = L1Schedule(self, state) if self.norm == "l1" else HalvingSchedule(self, state)
            previous = begin
            for number in range(self.steps):
                stepped = schedule.step(previous, first=number == 0)
                previous, state.current = state.current, stepped
                loss, state.gradient, correct = _evaluate(attacked, stepped, labels)
                _remember(state, loss, correct)
                schedule.adapt(loss)
            return state


def _evaluate(model: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (batch,), its gradient, and who is classified correctly."""
    points = points.detach().requires_grad_(True)
    logits = model(points).float()
    loss = functional.cross_entropy(logits, labels, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), points)
    return loss.detach(), gradient, logits.detach().argmax(1) == labels


def _remember(state: Climb, loss: Tensor, correct: Tensor) -> None:
    state.correct = state.correct & correct
    state.fooling = torch.where(per_sample(correct), state.fooling, state.current)
    higher = loss > state.best_loss
    state.best = torch.where(per_sample(higher), state.current, state.best)
    state.best_gradient = torch.where(per_sample(higher), state.gradient, state.best_gradient)
    state.best_loss = torch.where(higher, loss, state.best_loss)


def _restart(state: Climb, chosen: Tensor) -> None:
    """Continue from the best point, for the samples that are chosen."""
    state.current = torch.where(per_sample(chosen), state.best, state.current)
    state.gradient = torch.where(per_sample(chosen), state.best_gradient, state.gradient)


class HalvingSchedule:
    """Steps and their sizes in linf and l2."""

    def __init__(self, attack: APGD, state: Climb) -> None:
        self._attack, self._state = attack, state
        self._sizes = torch.full_like(state.best_loss, 2 * attack.epsilon)
        self._window = max(int(0.22 * attack.steps), 1)
        self._shortest = max(int(0.06 * attack.steps), 1)
        self._shrink = max(int(0.03 * attack.steps), 1)
        self._since = 0
        self._increases = torch.zeros_like(state.best_loss)
        # The first step counts as an increase, as in the authors' package.
        self._last_loss = torch.zeros_like(state.best_loss)
        self._halved = torch.ones_like(state.correct)
        self._loss_at_check = state.best_loss

    def step(self, previous: Tensor, first: bool) -> Tensor:
        """The next point of every sample."""
        attack, state = self._attack, self._state
        weight = 1.0 if first else 0.75
        direction = steepest_direction(attack.norm, state.gradient)
        target = project(attack.norm, state.current + per_sample(self._sizes) * direction, state.images, attack.epsilon)
        momentum = (1 - weight) * (state.current - previous)
        moved = state.current + weight * (target - state.current) + momentum
        return project(attack.norm, moved, state.images, attack.epsilon)

    def adapt(self, loss: Tensor) -> None:
        """At the end of a window: halve step sizes where the loss oscillates or stalls."""
        self._increases = self._increases + (loss > self._last_loss)
        self._last_loss = loss
        self._since += 1
        if self._since < self._window:
            return
        oscillates = self._increases <= OSCILLATION * self._window
        stalls = ~self._halved & (self._loss_at_check >= self._state.best_loss)
        self._halved = oscillates | stalls
        self._loss_at_check = self._state.best_loss
        self._sizes = torch.where(self._halved, self._sizes / 2, self._sizes)
        _restart(self._state, self._halved)
        self._window, self._since = max(self._window - self._shrink, self._shortest), 0
        self._increases = torch.zeros_like(self._increases)


class L1Schedule:
    """Steps, their sizes and their sparsity in l1."""

    def __init__(self, attack: APGD, state: Climb) -> None:
        self._attack, self._state = attack, state
        self._coordinates = state.images[0].numel()
        self._sizes = torch.full_like(state.best_loss, attack.epsilon)
        self._share = torch.full_like(state.best_loss, attack.sparsity)
        self._nonzero = torch.full_like(state.best_loss, float(self._coordinates))
        self._window = max(int(0.04 * attack.steps), 1)
        self._since = 0

    def step(self, previous: Tensor, first: bool) -> Tensor:
        """The next point of every sample; no momentum."""
        attack, state = self._attack, self._state
        kept = ((1.0 - self._share) * self._coordinates).clamp(0, self._coordinates - 1).long()
        direction = sparse_sign(state.gradient, self._coordinates - kept)
        return project("l1", state.current + per_sample(self._sizes) * direction, state.images, attack.epsilon)

    def adapt(self, loss: Tensor) -> None:
        """At the end of a window: follow the best point's sparsity; shrink the step where it no longer falls."""
        self._since += 1
        if self._since < self._window:
            return
        self._since = 0
        largest = self._attack.epsilon
        nonzero = (self._state.best != self._state.images).flatten(1).sum(1).to(self._nonzero.dtype)
        sparser = nonzero / self._nonzero < 0.95
        self._share = nonzero / self._coordinates / 1.5
        sizes = torch.where(sparser, torch.full_like(self._sizes, largest), self._sizes / 1.5)
        self._sizes = sizes.clamp(largest / 10, largest)
        self._nonzero = nonzero
        _restart(self._state, sparser)
