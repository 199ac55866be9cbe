"""What learners are combined into; the global learner of Generalist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.config import MovingAverageSettings
from pipeline.training.combinations import Combinations, Judge, Ratios, greedy_soup, tuned, uniform
from pipeline.training.learner import Learner
from pipeline.training.mesh import ONE_PROCESS, Mesh
from pipeline.training.theorem_2 import geometric_terms
from pipeline.training.weights import MovingAverage, copy_weights, recompute_batch_norm


class Mixture(Protocol):
    """A rule by which learners become one network; its settings say which learner is trained in which epoch."""

    @property
    def model(self) -> nn.Module:
        """The network that the method is judged by; the same object throughout."""

    def after_step(self, epoch: int, step: int = 1, steps: int = 1) -> None:
        """Number `step` (from 1) of the `steps` of `epoch` has ended, for every learner that trains in it."""

    def after_epoch(
        self, epoch: int, images: Callable[[], Iterable[Tensor]], judge: Judge, steps: int = 1
    ) -> dict[str, float]:
        """An epoch has ended.

        Args:
            epoch: From 1.
            images: Gives the epoch's training minibatches once more, (batch, channels, height, width) in [0, 1].
            judge: Gives the score of a network on the images that epochs are selected by: higher is better.
            steps: How many the epoch had.

        Returns:
            What the epoch's record should say.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""


class Single:
    """The mixture of a baseline: its only learner's weights, or their moving average where it has one."""

    def __init__(self, learner: Learner) -> None:
        self.model = learner.model if learner.average is None else learner.average.model

    def after_step(self, epoch: int, step: int = 1, steps: int = 1) -> None:
        """Nothing: the learner averages its own weights."""

    def after_epoch(
        self, epoch: int, images: Callable[[], Iterable[Tensor]], judge: Judge, steps: int = 1
    ) -> dict[str, float]:
        """Nothing, of which nothing is recorded."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Empty: the learner keeps all of it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""


class GlobalLearner:
    """theta_g of Generalist (Wang and Wang, 2023, Alg. 1) and Generalist++ (Alg. 1 and 2), for any number of learners.

    Args:
        settings: Mixing ratios, decay, when to hand back.
        learners: All with the same architecture and the same initial weights, from which theta_g starts too.
        epochs: The last epoch, after which `settings.result` may be a soup.
        mesh: Which of them this process trains; the others' weights are asked of those that do.
    """

    def __init__(
        self, settings: MovingAverageSettings, learners: Iterable[Learner], epochs: int, mesh: Mesh = ONE_PROCESS
    ) -> None:
        self._settings = settings
        self._learners = list(learners)
        self._epochs = epochs
        self._mesh = mesh
        self._average = MovingAverage(self._learners[0].model, settings.decay, settings.decay_warmup)
        self._tuned: Ratios | None = None
        self._restart: list[Tensor] | None = [weight.clone() for weight in self._parameters(self.model)]
        self._terms: dict[str, list[Tensor]] = {}

    @property
    def model(self) -> nn.Module:
        """The network with theta_g, in eval mode."""
        return self._average.model

    def ratios_at(self, epoch: int) -> Ratios:
        """The mixing ratios: those that were tuned last, or the schedule's."""
        return self._tuned or self._settings.ratios_at(epoch)

    def after_step(self, epoch: int, step: int = 1, steps: int = 1) -> None:
        """Follow the learners, and hand the result back when it is time within the epoch.

        Under `every_batch` that is after every step of the epochs that redistribute. What is due with the last step is
        left to `after_epoch`.
        """
        self.update(epoch)
        if self._settings.redistribution == "every_batch":
            is_due = self.redistributes_in(epoch)
        else:
            is_due = step < steps and self._is_due(epoch, step, steps)
        if is_due:
            self._measure(epoch)
            self.redistribute()

    def _is_due(self, epoch: int, step: int, steps: int) -> bool:
        """Whether a multiple of c falls on this step."""
        before, after = epoch - 1 + Fraction(step - 1, steps), epoch - 1 + Fraction(step, steps)
        return self._settings.redistributes_between(before, after, self._epochs)

    def after_epoch(
        self, epoch: int, images: Callable[[], Iterable[Tensor]], judge: Judge, steps: int = 1
    ) -> dict[str, float]:
        """Under `epoch_end`, tune and hand the result back when it is time; after the last epoch, cook the soup.

        Returns:
            Mixing ratios, whether the learners restarted, and the terms of Theorem 2 at that moment.
        """
        if self._settings.batch_norm == "recompute":
            recompute_batch_norm(self.model, images())
        ratios = self.ratios_at(epoch)
        is_cooked = epoch == self._epochs and self._settings.result != "global_learner"
        is_due = self._settings.redistribution == "epoch_end" and self._is_due(epoch, steps, steps)
        restarts = is_due and not is_cooked
        if restarts:
            self._measure(epoch)  # with the ratios of the last update, which tuning changes
        if self._settings.ratios == "tuned" and self.redistributes_in(epoch):
            self._tuned = tuned(ratios, self._combinations(images), judge)
        if is_cooked:
            ratios = self._cook(images, judge)
        elif restarts:
            self.redistribute()
        record = {f"mixing_ratio/{name}": ratio for name, ratio in ratios.items()}
        record["redistributed"] = float(self.redistributes_in(epoch) and not is_cooked)
        record |= {f"theorem_2/{name}": torch.stack(values).mean().item() for name, values in self._terms.items()}
        self._terms = {}
        return record

    def _combinations(self, images: Callable[[], Iterable[Tensor]]) -> Combinations:
        recomputed = self._settings.batch_norm == "recompute"
        return Combinations(self._learners, self._mesh, images if recomputed else None)

    def _cook(self, images: Callable[[], Iterable[Tensor]], judge: Judge) -> Ratios:
        """Replace theta_g by a soup of the learners as they are; returns its ratios."""
        combinations, names = self._combinations(images), [learner.name for learner in self._learners]
        greedy = self._settings.result == "greedy_soup"
        ratios = greedy_soup(names, combinations, judge) if greedy else uniform(names, names)
        copy_weights(combinations.at(ratios), self.model)
        return ratios

    def update(self, epoch: int) -> None:
        """theta_g <- alpha' theta_g + (1 - alpha') sum_a gamma_a theta_a, after every step."""
        self._average.update(self._sources(epoch), self._mesh.across)

    def _sources(self, epoch: int) -> list[tuple[float, nn.Module]]:
        """The mixing ratio and the network of every learner that this process trains."""
        ratios = self.ratios_at(epoch)
        trained = [learner for learner in self._learners if self._mesh.trains(learner.name)]
        return [(ratios[learner.name], self._source(learner)) for learner in trained]

    def _source(self, learner: Learner) -> nn.Module:
        if self._settings.source == "weight_averages" and learner.average is not None:
            return learner.average.model
        return learner.model

    def redistributes_in(self, epoch: int) -> bool:
        """Whether the learners restart from theta_g in this epoch."""
        return self._settings.redistributes_in(epoch, self._epochs)

    def redistribute(self) -> None:
        """theta_a <- theta_g for every learner, BatchNorm statistics included.

        Momentum buffers go on as they are unless `optimizer_state` resets them, the learners' own weight averages
        always do (the authors' code; the papers are silent).
        """
        for learner in self._learners:
            copy_weights(self.model, learner.model)
            if self._settings.optimizer_state == "reset":
                learner.optimizer.state.clear()
        self._restart = [weight.clone() for weight in self._parameters(self.model)]

    def _measure(self, epoch: int) -> None:
        """Note the terms of Theorem 2, right before the learners restart."""
        shares = [(ratio, self._parameters(model)) for ratio, model in self._sources(epoch)]
        averaged, across = self._parameters(self.model), self._mesh.across
        terms = geometric_terms(shares, averaged, self._average.last_decay, self._restart, across)
        for name, value in terms.items():
            self._terms.setdefault(name, []).append(value)

    @staticmethod
    def _parameters(model: nn.Module) -> list[Tensor]:
        return [weight.detach() for weight in model.parameters()]

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs; tensors are references, not copies."""
        return {**self._average.state_dict(), "tuned": self._tuned, "terms": self._terms, "restart": self._restart}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._average.load_state_dict(state)
        self._tuned, self._terms = state.get("tuned"), state.get("terms", {})
        self._restart = state.get("restart")  # unknown to checkpoints of older versions, until the next restart
