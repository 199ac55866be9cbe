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
from pipeline.data.images import ImageSplit, to_unit_interval
from pipeline.data.minibatches import FromDisk, FromMemory, Minibatches
from pipeline.data.split import Split
from pipeline.devices import Backend
from pipeline.errors import DivergedError, Interrupted, RequestError
from pipeline.models import build_model
from pipeline.objectives import Moment
from pipeline.ranks import ALONE, Ranks
from pipeline.streams import stream, stream_seed
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.distributed import synchronise_batch_norm
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
    """Time spent on the steps of the epoch under way, waiting for their images included."""
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
    split: Split,
    backend: Backend,
    folder: Path,
    observer: Observer,
    should_stop: StopRequest = lambda: None,
    ranks: Ranks = ALONE,
) -> TrainingResult:
    """Train an experiment to its last epoch, continuing from its newest checkpoint in `folder`.

    Args:
        experiment: What to train.
        split: On which images.
        backend: On which device, in which arithmetic.
        folder: Of checkpoints; of several ranks, the first one's counts.
        observer: Told of the progress.
        should_stop: Asked after every step; one rank that is to stop stops all.
        ranks: The processes that train together, every one of which calls this function.

    Raises:
        Interrupted: `should_stop` gave a reason; a checkpoint was written first.
        PipelineError: a loss is not finite, every checkpoint is damaged, or another rank was lost.
    """
    checkpoints = CheckpointFolder(folder / "checkpoints", experiment.fingerprint)
    run = TrainingRun(experiment, split, backend, checkpoints, ranks)
    run.restore(observer)
    progress, epochs = run.progress, experiment.training.epochs
    steps = run.steps_in(min(progress.epoch + 1, epochs))
    observer.on_start(epochs, steps, progress.epoch + 1, progress.step)
    for epoch in range(progress.epoch + 1, epochs + 1):
        if run.steps_in(epoch) != steps:
            steps = run.steps_in(epoch)
            observer.on_phase(steps)
        started = time.perf_counter()
        for images, labels in run.batches(epoch, first=progress.step):
            for learner in run.learners:
                learner.set_learning_rate(epoch, (progress.step + 1) / steps)
            losses = {learner.name: run.step(learner, images, labels, epoch) for learner in run.training_in(epoch)}
            if run.mixture is not None:
                run.mixture.after_step(epoch)
            elapsed = time.perf_counter() - started
            progress.step += 1
            progress.seconds += elapsed
            observer.on_step(epoch, progress.step, losses, run.batch_length(epoch, progress.step - 1) / elapsed)
            reason = should_stop()
            if ranks.any(reason is not None):
                reason = reason or "another process was asked to stop"
                raise Interrupted(f"{reason}: saved {run.save()}; the same command continues from there")
            started = time.perf_counter()
        run.finish_epoch(epoch)
        run.save()
        observer.on_epoch(progress.history[-1])
    return run.result()


class TrainingRun:
    """The learners, their mixture and the state of one experiment."""

    def __init__(
        self,
        experiment: Experiment,
        split: Split,
        backend: Backend,
        checkpoints: CheckpointFolder,
        ranks: Ranks = ALONE,
    ) -> None:
        self.learners = [build_learner(experiment, name, backend, ranks) for name in experiment.method.learners]
        settings = experiment.method.mixture
        self.mixture = None if settings is None else build_mixture(settings, self.learners, experiment.training.epochs)
        self.progress = Progress()
        self._experiment = experiment
        self._backend = backend
        self._checkpoints = checkpoints
        self._ranks = ranks
        self._minibatches = open_minibatches(experiment, split, backend.device, ranks)
        self._check_parts()
        first_epoch = 1 if settings is None else settings.complete_from(experiment.training.epochs)
        self._best = BestEpoch(experiment.training.selection, first_epoch)
        self._validation = Validation(experiment, split, backend, ranks)

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

    def steps_in(self, epoch: int) -> int:
        """Minibatches in `epoch`; the last one may be smaller."""
        return -(-len(self._minibatches) // self._experiment.sizes_in(epoch).batch)

    def batch_length(self, epoch: int, step: int) -> int:
        """Images in minibatch number `step` (from 0) of `epoch`, of all ranks together."""
        size = self._experiment.sizes_in(epoch).batch
        return min(size, len(self._minibatches) - step * size)

    def _check_parts(self) -> None:
        """Refuse more ranks than a minibatch has images: BatchNorm has no statistics of none."""
        for epoch in range(1, self._experiment.training.epochs + 1):
            least = self.batch_length(epoch, self.steps_in(epoch) - 1)
            if least < self._ranks.count:
                raise RequestError(
                    f"the last minibatch of epoch {epoch} has {least} images for {self._ranks.count} processes; start "
                    "fewer, or change training.batch_size or data.train_images"
                )

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of the minibatches of `epoch` from number `first` on: float images in [0, 1], labels."""
        for images, labels in self._minibatches.of_epoch(epoch, self._experiment.sizes_in(epoch), first):
            yield channels_last(to_unit_interval(images)), labels

    def step(self, learner: Learner, images: Tensor, labels: Tensor, epoch: int) -> float:
        """One update of one learner; returns its loss.

        Raises:
            DivergedError: the loss is not finite; says which learner, epoch and batch.
            PipelineError: another rank was lost.
        """
        step, device = self.progress.step, self._backend.device
        part = self._ranks.part(self.batch_length(epoch, step))
        noise = stream(self._experiment.seed, "attack", learner.name, epoch, step, device=device, part=part)
        try:
            loss, correct = learner.step(
                images, labels, Moment(epoch, self._experiment.training.epochs, noise, learner.memory)
            )
        except DivergedError as error:
            raise DivergedError(
                f"epoch {epoch}, batch {step + 1} of {self.steps_in(epoch)}: {error}. The checkpoint of "
                "the last finished epoch is kept; lower this learner's learning_rate, or look at its data."
            ) from None
        sums = self.progress.sums
        for key, value in ((f"loss/{learner.name}", loss * part.total), (f"train_accuracy/{learner.name}", correct)):
            sums[key] = sums.get(key, 0.0) + value
        return loss

    def finish_epoch(self, epoch: int) -> None:
        """Let the mixture follow, measure, select, and write the epoch's record."""
        progress, size = self.progress, len(self._minibatches)
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
        """Write a checkpoint; of several ranks, the first one does, and the others wait for it."""
        place = self.progress.epoch, self.progress.step
        if self._ranks.is_first:
            state = {
                "progress": vars(self.progress),
                "learners": {learner.name: learner.state_dict() for learner in self.learners},
                "mixture": None if self.mixture is None else self.mixture.state_dict(),
                "best": self._best.state_dict(),
            }
            self._checkpoints.save(state, *place)
        self._ranks.any(False)
        return self._checkpoints.path(*place)

    def restore(self, observer: Observer) -> None:
        """Continue from the newest undamaged checkpoint, if there is one."""
        state: dict[str, Any] | None = None
        if self._ranks.is_first:
            device = self._backend.device if self._ranks.count == 1 else torch.device("cpu")
            state = self._checkpoints.load_newest(device, observer.message)
        state = self._ranks.share(state)
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


def open_minibatches(experiment: Experiment, split: Split, device: torch.device, ranks: Ranks) -> Minibatches:
    """The training images of `split`, from where they are."""
    augmentation, streaming = experiment.data.augmentation, experiment.data.streaming
    if isinstance(split, ImageSplit):
        return FromMemory(split.train.to(device), augmentation, experiment.seed, ranks)
    workers = None if streaming is None else streaming.workers
    return FromDisk(split.train, augmentation.horizontal_flip, experiment.seed, ranks, device, workers)


def build_learner(experiment: Experiment, name: str, backend: Backend, ranks: Ranks = ALONE) -> Learner:
    """A learner with the initial weights that all learners of the experiment share."""
    settings = experiment.method.learners[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(experiment.seed, "initialisation"))
        model = build_model(
            settings.architecture or experiment.model.architecture,
            experiment.data.name,
            experiment.model.normalization,
            experiment.data.classes,
        )
    model = synchronise_batch_norm(model, ranks, backend.device)
    return Learner(name, settings, model.to(backend.device).to(memory_format=torch.channels_last), backend)


def build_mixture(settings: MixtureSettings, learners: list[Learner], epochs: int) -> Mixture:
    """The rule that `settings` names."""
    if isinstance(settings, MovingAverageSettings):
        return GlobalLearner(settings, learners)
    if isinstance(settings, GradientProjectionSettings):
        return GradientProjection(settings, learners)
    return ModeConnectivity(settings, learners, epochs)
