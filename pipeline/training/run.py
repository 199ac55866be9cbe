"""The learners, their mixture and the state of one training, and what each line of Algorithm 1 does to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import Experiment, MovingAverageSettings
from pipeline.config.mixture import SingleSettings
from pipeline.core.devices import Backend
from pipeline.core.errors import DivergedError, Interrupted, RequestError
from pipeline.core.ranks import ALONE, Ranks
from pipeline.core.streams import drawing, stream, stream_seed
from pipeline.data.augmentation import augment, augment_in_turn
from pipeline.data.images import ImageSplit, to_unit_interval
from pipeline.data.minibatches import FromDisk, FromMemory, Minibatches
from pipeline.data.split import Split
from pipeline.evaluation.predictions import channels_last
from pipeline.objectives import Moment
from pipeline.studies.course import Course
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.distributed import synchronise_batch_norm
from pipeline.training.learner import Learner, Outcome
from pipeline.training.mesh import ONE_PROCESS, Mesh
from pipeline.training.mixture import Mixture
from pipeline.training.observer import Observer, Silent
from pipeline.training.selection import BestEpoch, Validation
from pipeline.training.theory import TheoryMeter

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
    shared: str = ""
    """Which epochs' steps were taken together with which other experiments, in words."""


@dataclass(frozen=True)
class Step:
    """A learner's step, whose outcome may still be under way on the device."""

    epoch: int
    number: int
    """The number of the minibatch, from 0."""
    outcome: Outcome


@dataclass(frozen=True)
class TrainingResult:
    """What training leaves behind."""

    model: nn.Module
    """The selected weights, in eval mode: the global learner's, or the only learner's."""
    history: list[dict[str, float]]
    selected_epoch: int
    shared: str = ""
    """As `Progress.shared`."""


class TrainingRun:
    """One experiment in training.

    Args:
        experiment: What to train.
        split: On which images.
        backend: On which device, in which arithmetic.
        checkpoints: Where the state is kept; of several processes, the first one's counts.
        mesh: Which learners and which part of a minibatch are this process's.
        observer: Told of the progress.
        should_stop: Asked after every step; one process that is to stop stops all.
        learners: Those of the experiment, where other experiments have them too; None: its own.

    Raises:
        RequestError: the minibatches cannot be shared out among the processes.
    """

    def __init__(
        self,
        experiment: Experiment,
        split: Split,
        backend: Backend,
        checkpoints: CheckpointFolder,
        mesh: Mesh = ONE_PROCESS,
        observer: Observer | None = None,
        should_stop: StopRequest = lambda: None,
        learners: list[Learner] | None = None,
    ) -> None:
        self._rule, epochs = experiment.method.mixture or SingleSettings(), experiment.training.epochs
        self.learners = learners or build_learners(experiment, backend, mesh.data)
        self.mixture: Mixture = self._rule.build(self.learners, epochs, mesh)
        self.progress = Progress()
        self._observer = observer or Silent()
        self._should_stop = should_stop
        self._since = 0.0
        """When the step under way began, on a clock."""
        self._unread: list[Step] = []
        self._experiment = experiment
        self._backend = backend
        self._checkpoints = checkpoints
        self._mesh = mesh
        self._minibatches = open_minibatches(experiment, split, backend.device, mesh.data)
        self._check_parts()
        settings = experiment.training
        self._keys = {} if settings.theory else Course.of(experiment, len(self._minibatches), split.digest).keys
        self._branch_points = self._rule.branch_points(epochs) if self._keys and settings.branch_gigabytes else []
        self._best = BestEpoch(experiment.training.selection, self._rule.complete_from(epochs))
        self._validation = Validation(experiment, split, backend, mesh)
        self._theory: TheoryMeter | None = None
        if experiment.training.theory is not None and isinstance(self._rule, MovingAverageSettings):
            snapshots = checkpoints.folder.with_name("theory")
            self._theory = TheoryMeter(experiment, split, backend, self.learners, snapshots, mesh)

    def epochs_left(self) -> Iterator[int]:
        """The epochs (from 1) after the newest checkpoint, which is loaded first; none where training has ended.

        Raises:
            PipelineError: every checkpoint is damaged, or another rank was lost.
        """
        self.restore()
        epochs, first, steps = self._experiment.training.epochs, self.progress.epoch + 1, 0
        for epoch in range(first, epochs + 1):
            if epoch == first:
                steps = self.steps_in(epoch)
                self._observer.on_start(epochs, steps, first, self.progress.step)
            elif self.steps_in(epoch) != steps:
                steps = self.steps_in(epoch)
                self._observer.on_phase(steps)
            yield epoch

    def minibatches_left(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `batches`, from where `epoch` stands: for each, learners have the learning rates of that moment.

        The time of a step begins with the wait for its images.
        """
        self._since = time.perf_counter()
        for images, labels in self.batches(epoch, first=self.progress.step):
            self.set_learning_rates(epoch)
            yield images, labels

    def set_learning_rates(self, epoch: int) -> None:
        """Let the learners have the rates of the step that is due."""
        for learner in self.training_in(epoch):
            learner.set_learning_rate(epoch, (self.progress.step + 1) / self.steps_in(epoch))

    def training_in(self, epoch: int) -> list[Learner]:
        """The learners that this process updates in `epoch`."""
        own = [learner for learner in self.learners if self._mesh.trains(learner.name)]
        return [learner for learner in own if self._rule.trains(learner.name, epoch)]

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
            if least < self._mesh.data.count:
                raise RequestError(
                    f"the last minibatch of epoch {epoch} has {least} images for {self._mesh.data.count} processes; "
                    "start fewer, or change training.batch_size or data.train_images"
                )

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of the minibatches of `epoch` from number `first` on: float images in [0, 1], labels."""
        for images, labels in self._minibatches.of_epoch(epoch, self._experiment.sizes_in(epoch), first):
            yield channels_last(to_unit_interval(images)), labels

    def step(self, learner: Learner, images: Tensor, labels: Tensor, epoch: int) -> Step:
        """theta_a <- Z(theta_a): one update of one learner on one minibatch; its loss is for `read_losses`.

        Raises:
            DivergedError: the loss is not finite; says which learner, epoch and batch.
            PipelineError: another rank was lost.
        """
        step, device = self.progress.step, self._backend.device
        part, seed = self._mesh.data.part(self.batch_length(epoch, step)), self._experiment.seed
        epochs = self._experiment.training.epochs if learner.objective.asks_for_last_epoch else None
        noise = stream(seed, "attack", learner.name, epoch, step, device=device, part=part)
        augmenting = partial(augment_in_turn, policies=(self._experiment.data.augmentation, learner.augmentation))
        moment = Moment(epoch, epochs, noise, learner.memory, learner.label_smoothing, augmenting)
        if learner.augmentation is not None:
            placing = stream(seed, "augmentation", learner.name, epoch, step, device=device, part=part)
            images = channels_last(augment(images, learner.augmentation, placing))
        dropout = drawing(seed, "dropout", learner.name, epoch, step, part.first, device=device)
        with self._located(epoch, step), dropout:
            done = Step(epoch, step, learner.step(images, labels, moment))
        self.take(done)
        return done

    def take(self, step: Step) -> None:
        """Count a learner's step as this run's."""
        self._unread.append(step)

    def follow(self, epoch: int) -> None:
        """Let the mixture follow the learners after a step; under some settings it hands back within the epoch."""
        self.mixture.after_step(epoch, self.progress.step + 1, self.steps_in(epoch))

    def end_step(self, epoch: int) -> None:
        """Count and time the step, tell of it, and save and stop where asked to.

        Raises:
            Interrupted: this or another process is to stop; a checkpoint was written first.
            DivergedError: a loss is not finite.
        """
        losses = self.read_losses(all_steps=self.progress.step + 1 == self.steps_in(epoch))
        self.count_step(epoch, losses, time.perf_counter() - self._since)
        reason = self._should_stop()
        if self._mesh.everyone.any(reason is not None):
            reason = reason or "another process was asked to stop"
            raise Interrupted(f"{reason}: saved {self.save()}; the same command continues from there")
        self._since = time.perf_counter()

    def count_step(self, epoch: int, losses: dict[str, float], seconds: float) -> None:
        """Count a step that took so long, and tell of it."""
        rate = self.batch_length(epoch, self.progress.step) / seconds
        self.progress.step += 1
        self.progress.seconds += seconds
        self._observer.on_step(epoch, self.progress.step, losses, rate)

    def read_losses(self, all_steps: bool = False) -> dict[str, float]:
        """Losses by learner of those steps that were not read before, and add them to the epoch's sums.

        Args:
            all_steps: Also of the step under way, for which the device must be waited for where it is not the host.

        Raises:
            DivergedError: one is not finite.
        """
        at_once, sums, losses = all_steps or not self._backend.deferred, self.progress.sums, {}
        due = [step for step in self._unread if at_once or step.number < self.progress.step]
        self._unread = self._unread[len(due) :]
        for step in due:
            name = step.outcome.learner
            with self._located(step.epoch, step.number):
                losses[name], correct = step.outcome.read()
            total = losses[name] * self.batch_length(step.epoch, step.number)
            for key, value in ((f"loss/{name}", total), (f"train_accuracy/{name}", correct)):
                sums[key] = sums.get(key, 0.0) + value
        return losses

    @contextmanager
    def _located(self, epoch: int, step: int) -> Iterator[None]:
        """Say of a loss that is not finite where it was met."""
        try:
            yield
        except DivergedError as error:
            raise DivergedError(
                f"epoch {epoch}, batch {step + 1} of {self.steps_in(epoch)}: {error}. The checkpoint of "
                "the last finished epoch is kept; lower this learner's learning_rate, or look at its data."
            ) from None

    def end_epoch(self, epoch: int) -> None:
        """Measure the epoch, keep its record and the state, and tell of it."""
        if epoch in self._branch_points:
            self.save()
        self.finish_epoch(epoch)
        self.save()
        self._observer.on_epoch(self.progress.history[-1])

    def finish_epoch(self, epoch: int) -> None:
        """Let the mixture hand back what is due, measure, select, and write the epoch's record."""
        progress, size = self.progress, len(self._minibatches)
        rate = size / max(progress.seconds, 1e-9)
        record: dict[str, float] = {"epoch": epoch, "seconds": progress.seconds, "images_per_second": rate}
        trained = self.training_in(epoch)
        rates = {f"learning_rate/{learner.name}": learner.learning_rate(epoch) for learner in trained}
        record |= self._mesh.merge({key: value / size for key, value in progress.sums.items()} | rates)
        if self._theory is not None and self._theory.is_due(epoch):
            steps = sum(self.steps_in(before) for before in range(1, epoch + 1))
            record |= self._theory.measure(epoch, steps, self.mixture.model)
        with drawing(self._experiment.seed, "dropout", "mixture", epoch, device=self._backend.device):
            record |= self.mixture.after_epoch(
                epoch,
                images=lambda: (images for images, _ in self.batches(epoch)),
                judge=lambda model: self._validation.score(self._validation.measure(model, [], epoch)),
                steps=self.steps_in(epoch),
            )
        if self._validation.is_due(epoch):
            beside = trained if len(self.learners) > 1 else []
            accuracies = self._validation.measure(self.mixture.model, beside, epoch)
            record |= accuracies
            self._best.consider(epoch, self._validation.score(accuracies), accuracies, self.mixture.model)
        progress.history.append(record)
        progress.epoch, progress.step, progress.seconds, progress.sums = epoch, 0, 0.0, {}

    def save(self) -> Path:
        """Write a checkpoint; of several ranks, the first one does, and the others wait for it."""
        self.read_losses(all_steps=True)
        place = self.progress.epoch, self.progress.step
        own = {learner.name: learner.state_dict() for learner in self.learners if self._mesh.trains(learner.name)}
        learners = self._mesh.gather(own, torch.device("cpu"))
        state = self.own_state()
        if self._mesh.everyone.is_first:
            state |= {"learners": learners, "experiment": self._experiment.identifier}
            is_branch_point = place in [(epoch - 1, self.steps_in(epoch)) for epoch in self._branch_points]
            self._checkpoints.save(state, *place, self._keys.get(place), is_branch_point)
        self._mesh.everyone.any(False)
        return self._checkpoints.path(*place)

    def own_state(self) -> dict[str, Any]:
        """All of a checkpoint but the learners; tensors are references, not copies."""
        return {
            "progress": vars(self.progress) | {"sums": self._mesh.merge(self.progress.sums)},
            "mixture": self.mixture.state_dict(),
            "best": self._best.state_dict(),
            "theory": None if self._theory is None else self._theory.state_dict(),
        }

    def restore(self) -> None:
        """Continue from the newest undamaged checkpoint, if there is one."""
        state: dict[str, Any] | None = None
        everyone = self._mesh.everyone
        if everyone.is_first:
            device = self._backend.device if everyone.count == 1 else torch.device("cpu")
            state = self._checkpoints.load_newest(device, self._observer.message)
        state = everyone.share(state)
        if state is None:
            return
        for learner in self.learners:
            learner.load_state_dict(state["learners"][learner.name])
        self.load_own_state(state)
        if self.progress.epoch < self._experiment.training.epochs:
            self._observer.message(f"continuing after epoch {self.progress.epoch}, step {self.progress.step}")

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Continue from `own_state`."""
        self.progress = Progress(**state["progress"])
        sums = self.progress.sums.items()
        self.progress.sums = {key: value for key, value in sums if self._mesh.trains(key.partition("/")[2])}
        self.mixture.load_state_dict(state["mixture"])
        self._best.load_state_dict(state["best"])
        if self._theory is not None and state.get("theory") is not None:
            self._theory.load_state_dict(state["theory"])

    def result(self) -> TrainingResult:
        """The selected weights, after the last epoch."""
        progress, selected = self.progress, self._best.load_into(self.mixture.model)
        return TrainingResult(self.mixture.model.eval(), progress.history, selected or progress.epoch, progress.shared)


def open_minibatches(experiment: Experiment, split: Split, device: torch.device, ranks: Ranks) -> Minibatches:
    """The training images of `split`, from where they are."""
    augmentation, streaming = experiment.data.augmentation, experiment.data.streaming
    if isinstance(split, ImageSplit):
        return FromMemory(split.train.to(device), augmentation, experiment.seed, ranks)
    workers = None if streaming is None else streaming.workers
    return FromDisk(split.train, augmentation.horizontal_flip, experiment.seed, ranks, device, workers)


def build_learners(experiment: Experiment, backend: Backend, ranks: Ranks = ALONE) -> list[Learner]:
    """The learners of an experiment, with the same initial weights unless files say otherwise."""
    method = experiment.method
    networks = {name: build_network(experiment, name, backend, ranks) for name in method.learners}
    if method.mixture is not None:
        networks |= method.mixture.networks(networks)
    return [Learner(name, settings, networks[name], backend) for name, settings in method.learners.items()]


def build_network(experiment: Experiment, learner: str, backend: Backend, ranks: Ranks = ALONE) -> nn.Module:
    """A learner's network on the backend's device, drawn of seed and architecture alone or with the weights of a file.

    Raises:
        RequestError: the file is missing, another one, or not of this network; or a network from elsewhere does not do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(experiment.seed, "initialisation"))
        model = experiment.build_model(learner)
    if learner == next(iter(experiment.method.learners)):  # mixed ones have the same network
        experiment.check_network(model)
    if (start := experiment.method.learners[learner].initial_weights) is not None:
        start.load_into(model, experiment.data.facts)
    return backend.place(synchronise_batch_norm(model, ranks, backend.device))
