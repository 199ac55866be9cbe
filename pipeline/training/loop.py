"""Training: Algorithm 1 and 2 of Generalist++ for any list of learners. A baseline is a list of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import Experiment, MixtureSettings, MovingAverageSettings
from pipeline.core.devices import Backend
from pipeline.core.errors import DivergedError, Interrupted, RequestError
from pipeline.core.ranks import ALONE, Ranks
from pipeline.core.streams import stream, stream_seed
from pipeline.data.augmentation import augment
from pipeline.data.images import ImageSplit, to_unit_interval
from pipeline.data.minibatches import FromDisk, FromMemory, Minibatches
from pipeline.data.split import Split
from pipeline.evaluation.predictions import channels_last
from pipeline.models import build_model
from pipeline.objectives import Moment
from pipeline.provenance.code import UNKNOWN
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.distributed import synchronise_batch_norm
from pipeline.training.lanes import Lanes
from pipeline.training.learner import Learner, Outcome
from pipeline.training.mesh import ONE_PROCESS, Mesh, shared_out
from pipeline.training.mixture import Mixture
from pipeline.training.observer import Observer
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


def train(
    experiment: Experiment,
    split: Split,
    backend: Backend,
    folder: Path,
    observer: Observer,
    should_stop: StopRequest = lambda: None,
    ranks: Ranks = ALONE,
    learner_parallel: bool = False,
    code: str = UNKNOWN,
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
        learner_parallel: Each of them trains one learner instead of all on its part of the minibatch.
        code: Digest of the code that runs, kept in checkpoints; those of other code are not continued.

    Raises:
        RequestError: the minibatches or the learners cannot be shared out among the processes.
        Interrupted: `should_stop` gave a reason; a checkpoint was written first.
        PipelineError: a loss is not finite, every checkpoint is damaged, or another rank was lost.
    """
    checkpoints = CheckpointFolder(folder / "checkpoints", experiment.fingerprint, code)
    mesh = shared_out(ranks, experiment.method, backend.device) if learner_parallel else Mesh(ranks, ranks)
    run = TrainingRun(experiment, split, backend, checkpoints, mesh)
    run.restore(observer)
    lanes = Lanes(backend.device, observer.message, wanted=experiment.training.overlap_learners)
    progress, epochs = run.progress, experiment.training.epochs
    steps = run.steps_in(min(progress.epoch + 1, epochs))
    observer.on_start(epochs, steps, progress.epoch + 1, progress.step)
    for epoch in range(progress.epoch + 1, epochs + 1):
        if run.steps_in(epoch) != steps:
            steps = run.steps_in(epoch)
            observer.on_phase(steps)
        started = time.perf_counter()
        for images, labels in run.batches(epoch, first=progress.step):
            run.step_all(images, labels, epoch, lanes)
            if run.mixture is not None:
                run.mixture.after_step(epoch, progress.step + 1, steps)
            losses = run.read_losses(all_steps=progress.step + 1 == steps)
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
        mesh: Mesh = ONE_PROCESS,
    ) -> None:
        self.learners = [build_learner(experiment, name, backend, mesh.data) for name in experiment.method.learners]
        settings, epochs = experiment.method.mixture, experiment.training.epochs
        self.mixture = None if settings is None else build_mixture(settings, self.learners, epochs, mesh)
        self.progress = Progress()
        self._unread: list[Step] = []
        self._experiment = experiment
        self._backend = backend
        self._checkpoints = checkpoints
        self._mesh = mesh
        self._minibatches = open_minibatches(experiment, split, backend.device, mesh.data)
        self._check_parts()
        first_epoch = 1 if settings is None else settings.complete_from(epochs)
        self._best = BestEpoch(experiment.training.selection, first_epoch)
        self._validation = Validation(experiment, split, backend, mesh)
        self._theory: TheoryMeter | None = None
        if experiment.training.theory is not None and isinstance(settings, MovingAverageSettings):
            snapshots = checkpoints.folder.with_name("theory")
            self._theory = TheoryMeter(experiment, split, backend, self.learners, snapshots, mesh)

    @property
    def result_model(self) -> nn.Module:
        """The network that the method is judged by."""
        if self.mixture is not None:
            return self.mixture.model
        only = self.learners[0]
        return only.model if only.average is None else only.average.model

    def training_in(self, epoch: int) -> list[Learner]:
        """The learners that this process updates in `epoch`."""
        settings = self._experiment.method.mixture
        own = [learner for learner in self.learners if self._mesh.trains(learner.name)]
        return [learner for learner in own if settings is None or settings.trains(learner.name, epoch)]

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

    def step_all(self, images: Tensor, labels: Tensor, epoch: int, lanes: Lanes) -> None:
        """One update of every learner that trains in `epoch`, each in a lane; raises as `step`."""
        learners, share = self.training_in(epoch), (self.progress.step + 1) / self.steps_in(epoch)
        with lanes.of(len(learners)) as lane_of_each:
            for learner, lane in zip(learners, lane_of_each, strict=True):
                learner.set_learning_rate(epoch, share)
                with lane:
                    self.step(learner, images, labels, epoch)

    def step(self, learner: Learner, images: Tensor, labels: Tensor, epoch: int) -> None:
        """One update of one learner; its loss is for `read_losses`.

        Raises:
            DivergedError: the loss is not finite; says which learner, epoch and batch.
            PipelineError: another rank was lost.
        """
        step, device = self.progress.step, self._backend.device
        part = self._mesh.data.part(self.batch_length(epoch, step))
        seed, epochs = self._experiment.seed, self._experiment.training.epochs
        noise = stream(seed, "attack", learner.name, epoch, step, device=device, part=part)
        moment = Moment(epoch, epochs, noise, learner.memory, learner.label_smoothing)
        if learner.augmentation is not None:
            placing = stream(seed, "augmentation", learner.name, epoch, step, device=device, part=part)
            images = channels_last(augment(images, learner.augmentation, placing))
        with self._located(epoch, step):
            self._unread.append(Step(epoch, step, learner.step(images, labels, moment)))

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

    def finish_epoch(self, epoch: int) -> None:
        """Let the mixture follow, measure, select, and write the epoch's record."""
        progress, size = self.progress, len(self._minibatches)
        record: dict[str, float] = {"epoch": epoch, "seconds": progress.seconds}
        record["images_per_second"] = size / max(progress.seconds, 1e-9)
        trained = self.training_in(epoch)
        rates = {f"learning_rate/{learner.name}": learner.learning_rate(epoch) for learner in trained}
        record |= self._mesh.merge({key: value / size for key, value in progress.sums.items()} | rates)
        if self._theory is not None and self._theory.is_due(epoch):
            steps = sum(self.steps_in(before) for before in range(1, epoch + 1))
            record |= self._theory.measure(epoch, steps, self.result_model)
        if self.mixture is not None:
            record |= self.mixture.after_epoch(
                epoch,
                images=lambda: (images for images, _ in self.batches(epoch)),
                judge=lambda model: self._validation.score(self._validation.measure(model, [], epoch)),
                steps=self.steps_in(epoch),
            )
        if self._validation.is_due(epoch):
            accuracies = self._validation.measure(self.result_model, trained if self.mixture else [], epoch)
            record |= accuracies
            self._best.consider(epoch, self._validation.score(accuracies), accuracies, self.result_model)
        progress.history.append(record)
        progress.epoch, progress.step, progress.seconds, progress.sums = epoch, 0, 0.0, {}

    def save(self) -> Path:
        """Write a checkpoint; of several ranks, the first one does, and the others wait for it."""
        self.read_losses(all_steps=True)
        place = self.progress.epoch, self.progress.step
        own = {learner.name: learner.state_dict() for learner in self.learners if self._mesh.trains(learner.name)}
        learners = self._mesh.gather(own, torch.device("cpu"))
        progress = vars(self.progress) | {"sums": self._mesh.merge(self.progress.sums)}
        if self._mesh.everyone.is_first:
            state = {
                "progress": progress,
                "learners": learners,
                "mixture": None if self.mixture is None else self.mixture.state_dict(),
                "best": self._best.state_dict(),
                "theory": None if self._theory is None else self._theory.state_dict(),
            }
            self._checkpoints.save(state, *place)
        self._mesh.everyone.any(False)
        return self._checkpoints.path(*place)

    def restore(self, observer: Observer) -> None:
        """Continue from the newest undamaged checkpoint, if there is one."""
        state: dict[str, Any] | None = None
        everyone = self._mesh.everyone
        if everyone.is_first:
            device = self._backend.device if everyone.count == 1 else torch.device("cpu")
            state = self._checkpoints.load_newest(device, observer.message)
        state = everyone.share(state)
        if state is None:
            return
        self.progress = Progress(**state["progress"])
        sums = self.progress.sums.items()
        self.progress.sums = {key: value for key, value in sums if self._mesh.trains(key.partition("/")[2])}
        for learner in self.learners:
            learner.load_state_dict(state["learners"][learner.name])
        if self.mixture is not None:
            self.mixture.load_state_dict(state["mixture"])
        self._best.load_state_dict(state["best"])
        if self._theory is not None and state.get("theory") is not None:
            self._theory.load_state_dict(state["theory"])
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
    return Learner(name, settings, backend.place(model), backend)


def build_mixture(settings: MixtureSettings, learners: list[Learner], epochs: int, mesh: Mesh = ONE_PROCESS) -> Mixture:
    """The rule that `settings` names."""
    mixture: Mixture = settings.build(learners, epochs, mesh)
    return mixture
