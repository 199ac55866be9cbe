"""What learners are combined into; the global learner of Generalist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from pipeline.config import MovingAverageSettings
from pipeline.training.learner import Learner
from pipeline.training.mesh import ONE_PROCESS, Mesh
from pipeline.training.weights import MovingAverage, copy_weights, recompute_batch_norm


class Mixture(Protocol):
    """A rule by which learners become one network; its settings say which learner is trained in which epoch."""

    @property
    def model(self) -> nn.Module:
        """The network that the method is judged by, in eval mode; the same object throughout."""

    def after_step(self, epoch: int) -> None:
        """A step of every learner that trains in `epoch` has ended."""

    def after_epoch(
        self, epoch: int, images: Callable[[], Iterable[Tensor]], judge: Callable[[nn.Module], float]
    ) -> dict[str, float]:
        """An epoch has ended.

        Args:
            epoch: From 1.
            images: Gives the epoch's training minibatches once more, (batch, channels, height, width) in [0, 1].
            judge: Gives the score of a network on the images that epochs are selected by: higher is better.

        Returns:
            What the epoch's record should say.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""


class GlobalLearner:
    """theta_g of Generalist (Wang and Wang, 2023, Alg. 1) and Generalist++ (Alg. 1 and 2), for any number of learners.

    Args:
        settings: Mixing ratios, decay, when to hand back.
        learners: All with the same architecture and the same initial weights, from which theta_g starts too.
        mesh: Which of them this process trains; the others' weights are asked of those that do.
    """

    def __init__(self, settings: MovingAverageSettings, learners: Iterable[Learner], mesh: Mesh = ONE_PROCESS) -> None:
        self._settings = settings
        self._learners = list(learners)
        self._mesh = mesh
        self._average = MovingAverage(self._learners[0].model, settings.decay, settings.decay_warmup)

    @property
    def model(self) -> nn.Module:
        """The network with theta_g, in eval mode."""
        return self._average.model

    def after_step(self, epoch: int) -> None:
        """Follow the learners; under `every_batch` hand the result back at once in the epochs that redistribute."""
        self.update(epoch)
        if self._settings.redistribution == "every_batch" and self.redistributes_in(epoch):
            self.redistribute()

    def after_epoch(
        self, epoch: int, images: Callable[[], Iterable[Tensor]], judge: Callable[[nn.Module], float]
    ) -> dict[str, float]:
        """Under `epoch_end`, hand the result back when it is time."""
        if self._settings.batch_norm == "recompute":
            recompute_batch_norm(self.model, images())
        if self._settings.redistribution == "epoch_end" and self.redistributes_in(epoch):
            self.redistribute()
        ratios = {f"mixing_ratio/{name}": ratio for name, ratio in self._settings.ratios_at(epoch).items()}
        return {**ratios, "redistributed": float(self.redistributes_in(epoch))}

    def update(self, epoch: int) -> None:
        """theta_g <- alpha' theta_g + (1 - alpha') sum_a gamma_a theta_a, after every step."""
        ratios = self._settings.ratios_at(epoch)
        trained = [learner for learner in self._learners if self._mesh.trains(learner.name)]
        self._average.update([(ratios[learner.name], self._source(learner)) for learner in trained], self._mesh.across)

    def _source(self, learner: Learner) -> nn.Module:
        if self._settings.source == "weight_averages" and learner.average is not None:
            return learner.average.model
        return learner.model

    def redistributes_in(self, epoch: int) -> bool:
        """Whether the learners restart from theta_g in this epoch."""
        return self._settings.redistributes_in(epoch)

    def redistribute(self) -> None:
        """theta_a <- theta_g for every learner, BatchNorm statistics included.

        Momentum buffers and the learners' own weight averages go on as they are (the authors' code; the papers are
        silent).
        """
        for learner in self._learners:
            copy_weights(self.model, learner.model)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs; tensors are references, not copies."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._average.load_state_dict(state)
