"""Training: Algorithm 1 and 2 of Generalist++ for any list of learners. A baseline is a list of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attacks.predictions import channels_last
from pipeline.config import Experiment, GradientProjectionSettings, MixtureSettings, MovingAverageSettings
from pipeline.data.augmentation import augment
from pipeline.data.images import ImageSplit, to_unit_interval
from pipeline.devices import Backend
from pipeline.errors import Interrupted, PipelineError
from pipeline.models import build_model
from pipeline.objectives import Moment
from pipeline.streams import stream, stream_seed
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.gradient_projection import GradientProjection
from pipeline.training.learner import Learner
from pipeline.training.mixture import GlobalLearner, Mixture
from pipeline.training.mode_connectivity import ModeConnectivity
from pipeline.training.observer import Observer
from pipeline.training.selection import BestEpoch, Validation

StopRequest = Callable[[], str | None]
"""Asked after every step: None to go on, or the reason to save and stop."""


@dataclass
class Progress:
    """Where training stands; all of it is in the checkpoint."""

    epoch: int = 0
    """Epochs that have ended."""
    step: int = 0
    """Steps of the epoch under way."""
    seconds: float = 0.0
    """Time spent in the epoch under way."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the images of the epoch under way: losses and correct predictions by learner."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One record per finished epoch."""


@dataclass(frozen=True)
class TrainingResult:
    """What training leaves behind."""

    model: nn.Module
    """The selected weights, in eval mode: the global learner's, or the only learner's."""
    history: list[dict[str, float]]
    selected_epoch: int


def train(
    experiment: Experiment,
    split: ImageSplit,
    backend: Backend,
    folder: Path,
    observer: Observer,
    should_stop: StopRequest = lambda: None,
) -> TrainingResult:
    """Train an experiment to its last epoch, continuing from its newest checkpoint in `folder`.

    Raises:
        Interrupted: `should_stop` gave a reason; a checkpoint was written first.
        PipelineError: a loss is not finite, or every checkpoint is damaged.
    """
    run = TrainingRun(experiment, split, backend, CheckpointFolder(folder / "checkpoints", experiment.fingerprint))
    run.restore(observer)
    progress, epochs = run.progress, experiment.training.epochs
    observer.on_start(epochs, run.steps_per_epoch, progress.epoch + 1, progress.step)
    for epoch in range(progress.epoch + 1, epochs + 1):
        for learner in run.learners:
            learner.start_epoch(epoch)
        for images, labels in run.batches(epoch, first=progress.step):
            started = time.perf_counter()
            losses = {learner.name: run.step(learner, images, labels, epoch) for learner in run.training_in(epoch)}
            if run.mixture is not None:
                run.mixture.after_step(epoch)
            elapsed = time.perf_counter() - started
            progress.step += 1
            progress.seconds += elapsed
            observer.on_step(epoch, progress.step, losses, len(labels) / elapsed)
            reason = should_stop()
            if reason is not None:
                raise Interrupted(f"{reason}: saved {run.save()}; the same command continues from there")
        run.finish_epoch(epoch)
        run.save()
        observer.on_epoch(progress.history[-1])
    return run.result()


class TrainingRun:
    """The learners, their mixture and the state of one experiment."""

    def __init__(
        self, experiment: Experiment, split: ImageSplit, backend: Backend, checkpoints: CheckpointFolder
    ) -> None:
        self.learners = [build_learner(experiment, name, backend) for name in experiment.method.learners]
        settings = experiment.method.mixture
        self.mixture = None if settings is None else build_mixture(settings, self.learners, experiment.training.epochs)
        self.progress = Progress()
        self._experiment = experiment
        self._backend = backend
        self._checkpoints = checkpoints
        self._train = split.train.to(backend.device)
        first_epoch = 1 if settings is None else settings.complete_from(experiment.training.epochs)
        self._best = BestEpoch(experiment.training.selection, first_epoch)
        self._validation = Validation(experiment, split, backend)

    @property
    def result_model(self) -> nn.Module:
        """The network that the method is judged by."""
        if self.mixture is not None:
            return self.mixture.model
        only = self.learners[0]
        return only.model if only.average is None else only.average.model

    def training_in(self, epoch: int) -> list[Learner]:
        """The learners that are updated in `epoch`."""
        settings = self._experiment.method.mixture
        return [learner for learner in self.learners if settings is None or settings.trains(learner.name, epoch)]

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch; the last one may be smaller."""
        return -(-len(self._train) // self._experiment.training.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The shuffled, augmented minibatches of `epoch` from number `first` on: float images in [0, 1], labels."""
        seed, size = self._experiment.seed, self._experiment.training.batch_size
        order = torch.randperm(len(self._train), generator=stream(seed, "order", epoch)).to(self._backend.device)
        for step in range(first, self.steps_per_epoch):
            chosen = self._train.subset(order[step * size : (step + 1) * size])
            generator = stream(seed, "augmentation", epoch, step, device=self._backend.device)
            augmented = augment(chosen.images, self._experiment.data.augmentation, generator)
            yield channels_last(to_unit_interval(augmented)), chosen.labels

    def step(self, learner: Learner, images: Tensor, labels: Tensor, epoch: int) -> float:
        """One update of one learner; returns its loss.

        Raises:
            PipelineError: the loss is not finite; says which learner, epoch and batch.
        """
        noise = stream(
            self._experiment.seed, "attack", learner.name, epoch, self.progress.step, device=self._backend.device
        )
        try:
            loss, correct = learner.step(
                images, labels, Moment(epoch, self._experiment.training.epochs, noise, learner.memory)
            )
        except PipelineError as error:
            raise PipelineError(
                f"epoch {epoch}, batch {self.progress.step + 1} of {self.steps_per_epoch}: {error}. The checkpoint of "
                "the last finished epoch is kept; lower this learner's learning_rate, or look at its data."
            ) from None
        sums = self.progress.sums
        for key, value in ((f"loss/{learner.name}", loss * len(labels)), (f"train_accuracy/{learner.name}", correct)):
            sums[key] = sums.get(key, 0.0) + value
        return loss

    def finish_epoch(self, epoch: int) -> None:
        """Let the mixture follow, measure, select, and write the epoch's record."""
        progress, size = self.progress, len(self._train)
        record: dict[str, float] = {"epoch": epoch, "seconds": progress.seconds}
        record["images_per_second"] = size / max(progress.seconds, 1e-9)
        record |= {key: value / size for key, value in progress.sums.items()}
        trained = self.training_in(epoch)
        record |= {f"learning_rate/{learner.name}": learner.learning_rate(epoch) for learner in trained}
        if self.mixture is not None:
            record |= self.mixture.after_epoch(
                epoch,
                images=lambda: (images for images, _ in self.batches(epoch)),
                judge=lambda model: self._validation.score(self._validation.measure(model, [], epoch)),
            )
        if self._validation.is_due(epoch):
            accuracies = self._validation.measure(self.result_model, trained if self.mixture else [], epoch)
            record |= accuracies
            self._best.consider(epoch, self._validation.score(accuracies), accuracies, self.result_model)
        progress.history.append(record)
        progress.epoch, progress.step, progress.seconds, progress.sums = epoch, 0, 0.0, {}

    def save(self) -> Path:
        """Write a checkpoint."""
        state = {
            "progress": vars(self.progress),
            "learners": {learner.name: learner.state_dict() for learner in self.learners},
            "mixture": None if self.mixture is None else self.mixture.state_dict(),
            "best": self._best.state_dict(),
        }
        return self._checkpoints.save(state, self.progress.epoch, self.progress.step)

    def restore(self, observer: Observer) -> None:
        """Continue from the newest undamaged checkpoint, if there is one."""
        state: dict[str, Any] | None = self._checkpoints.load_newest(self._backend.device, observer.message)
        if state is None:
            return
        self.progress = Progress(**state["progress"])
        for learner in self.learners:
            learner.load_state_dict(state["learners"][learner.name])
        if self.mixture is not None:
            self.mixture.load_state_dict(state["mixture"])
        self._best.load_state_dict(state["best"])
        if self.progress.epoch < self._experiment.training.epochs:
            observer.message(f"continuing after epoch {self.progress.epoch}, step {self.progress.step}")

    def result(self) -> TrainingResult:
        """The selected weights, after the last epoch."""
        selected = self._best.load_into(self.result_model)
        return TrainingResult(self.result_model.eval(), self.progress.history, selected or self.progress.epoch)


def build_learner(experiment: Experiment, name: str, backend: Backend) -> Learner:
    """A learner with the initial weights that all learners of the experiment share."""
    settings = experiment.method.learners[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(experiment.seed, "initialisation"))
        model = build_model(
            settings.architecture or experiment.model.architecture, experiment.data.name, experiment.model.normalization
        )
    return Learner(name, settings, model.to(backend.device).to(memory_format=torch.channels_last), backend)


def build_mixture(settings: MixtureSettings, learners: list[Learner], epochs: int) -> Mixture:
    """The rule that `settings` names."""
    if isinstance(settings, MovingAverageSettings):
        return GlobalLearner(settings, learners)
    if isinstance(settings, GradientProjectionSettings):
        return GradientProjection(settings, learners)
    return ModeConnectivity(settings, learners, epochs)
