"""Train the warm-up that several experiments share, each learner once, and leave every experiment its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted, PipelineError
from pipeline.data.images import ImageSplit
from pipeline.data.split import Split
from pipeline.studies.warm_ups import WarmUp
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.learner import Learner
from pipeline.training.observer import Observer
from pipeline.training.run import Step, StopRequest, TrainingRun, build_learners


@dataclass(frozen=True)
class _Rider:
    """An experiment whose mixture follows learners that others have, too."""

    identifier: str
    fingerprint: str
    run: TrainingRun
    learners: Mapping[str, Learner]
    """By key, in the order of the experiment."""
    leaves_after: int
    """The last epoch whose steps it shares."""
    checkpoints: CheckpointFolder


class SharedTraining:
    """The experiments of a warm-up that still share it, all at the same step.

    Every learner takes the same steps, and every mixture and validation sees them at the same moments, as if its
    experiment were trained alone: its checkpoint has the same bits, but for how long the epochs took. That is the time
    of the experiment's own learners and mixture.

    Args:
        warm_up: Which experiments share it.
        split: Their images.
        backend: On which device, in which arithmetic.
        under_way: Where the state of all is kept until the last one has left; a damaged one is trained again.
        own: By fingerprint where an experiment's own checkpoints are; one that has some already is left as it is.
        observer: Told of the progress.
    """

    def __init__(
        self,
        warm_up: WarmUp,
        split: Split,
        backend: Backend,
        under_way: CheckpointFolder,
        own: Mapping[str, CheckpointFolder],
        observer: Observer,
    ) -> None:
        self._backend, self._under_way, self._observer = backend, under_way, observer
        if isinstance(split, ImageSplit):
            split = split.to(backend.device)  # once for all of them
        self._members = sorted(one.identifier for one in warm_up.experiments)
        self._learners: dict[str, Learner] = {}
        self._riders: list[_Rider] = []
        for member in warm_up.members:
            experiment, fingerprint = member.experiment, member.experiment.fingerprint
            if not self._learners.keys() >= set(member.learners):
                fresh = zip(member.learners, build_learners(experiment, backend), strict=True)
                self._learners = {**dict(fresh), **self._learners}
            learners, checkpoints = {key: self._learners[key] for key in member.learners}, own[fingerprint]
            run = TrainingRun(experiment, split, backend, checkpoints, learners=list(learners.values()))
            self._riders.append(
                _Rider(experiment.identifier, fingerprint, run, learners, warm_up.lasts_for(member), checkpoints)
            )

    def train(self, should_stop: StopRequest = lambda: None) -> None:
        """Train the warm-up to its end, continuing from its newest checkpoint.

        Args:
            should_stop: Asked after every step for a reason to save and stop.

        Raises:
            Interrupted: `should_stop` gave a reason; the state was saved first.
            PipelineError: a loss is not finite.
        """
        self._restore()
        progress = self._first.progress
        last = max(rider.leaves_after for rider in self._riders)
        self._observer.on_start(last, self._first.steps_in(progress.epoch + 1), progress.epoch + 1, progress.step)
        while self._riders:
            self._train_epoch(should_stop)
            self._let_go()
            self._end_epoch()

    @property
    def _first(self) -> TrainingRun:
        return self._riders[0].run

    def _train_epoch(self, should_stop: StopRequest) -> None:
        """Train the steps that are left of the epoch under way.

        Raises:
            Interrupted: there is a reason to stop; the state was saved first.
            DivergedError: a loss is not finite.
        """
        epoch, since = self._first.progress.epoch + 1, time.perf_counter()
        for images, labels in self._first.batches(epoch, first=self._first.progress.step):
            waited, done = time.perf_counter() - since, dict[str, tuple[Step, float]]()
            losses: dict[str, float] = {}
            for rider in self._riders:
                run, seconds = rider.run, waited
                run.set_learning_rates(epoch)
                for key, learner in rider.learners.items():
                    if key in done:
                        run.take(done[key][0])
                    else:
                        done[key] = self._timed(partial(run.step, learner, images, labels, epoch))
                    seconds += done[key][1]
                begun = time.perf_counter()
                run.follow(epoch)
                own = run.read_losses(all_steps=run.progress.step + 1 == run.steps_in(epoch))
                run.count_step(epoch, own, seconds + time.perf_counter() - begun)
                losses |= own
            now = time.perf_counter()
            step = self._first.progress.step
            self._observer.on_step(epoch, step, losses, self._first.batch_length(epoch, step - 1) / (now - since))
            if reason := should_stop():
                raise Interrupted(f"{reason}: saved {self._save()}; the same command continues from there")
            since = time.perf_counter()

    def _timed(self, step: Callable[[], Step]) -> tuple[Step, float]:
        """A learner's step, and the seconds that the device needs for it: they are those of every rider that has it."""
        begun = time.perf_counter()
        done = step()
        torch.get_device_module(self._backend.device).synchronize()
        return done, time.perf_counter() - begun

    def _let_go(self) -> None:
        """Leave a checkpoint to every experiment that shares no more than the steps of this epoch."""
        epoch = self._first.progress.epoch + 1
        for rider in self._riders:
            if rider.leaves_after == epoch and rider.checkpoints.is_empty:
                others = ", ".join(name for name in self._members if name != rider.identifier)
                rider.run.progress.shared = f"epochs 1 to {epoch} with {others}"
                rider.run.save()
        self._riders = [rider for rider in self._riders if rider.leaves_after > epoch]

    def _end_epoch(self) -> None:
        """Measure the epoch for those that are left, and save."""
        for rider in self._riders:
            rider.run.finish_epoch(rider.run.progress.epoch + 1)
        if self._riders:
            self._save()
            self._observer.on_epoch(self._first.progress.history[-1])

    def _save(self) -> str:
        progress = self._first.progress
        ridden = {key: learner for rider in self._riders for key, learner in rider.learners.items()}
        state = {
            "learners": {key: learner.state_dict() for key, learner in ridden.items()},
            "riders": {rider.fingerprint: rider.run.own_state() for rider in self._riders},
        }
        self._under_way.save(state, progress.epoch, progress.step)
        return str(self._under_way.path(progress.epoch, progress.step))

    def _restore(self) -> None:
        """Continue from the newest checkpoint, if there is one that is whole."""
        try:
            state = self._under_way.load_newest(self._backend.device, self._observer.message)
        except PipelineError:
            self._observer.message("every checkpoint of this warm-up is damaged; it is trained again")
            return
        if state is None:
            return
        self._riders = [rider for rider in self._riders if rider.fingerprint in state["riders"]]
        for key, content in state["learners"].items():
            self._learners[key].load_state_dict(content)
        for rider in self._riders:
            rider.run.load_own_state(state["riders"][rider.fingerprint])
        progress = self._first.progress
        self._observer.message(f"continuing after epoch {progress.epoch}, step {progress.step}")
