"""What decides a training, moment by moment: two that agree up to a moment have the same state there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.config import Experiment
from pipeline.config.mixture import SingleSettings
from pipeline.config.training import HOW_TO_TRAIN
from pipeline.core.values import Schedule

Position = tuple[int, int]
"""Epochs that are over, and steps of the one after: (75, 0) is after epoch 75, with all that follows its last step."""


@dataclass(frozen=True)
class Course:
    """A training's settings, resolved to what they mean in each epoch."""

    lasting: dict[str, Any]
    """What acts in every epoch alike."""
    steps: list[int]
    """The steps of each epoch."""
    during: list[dict[str, Any]]
    """What acts in the steps of each epoch: learning rates, mixing ratios, sizes."""
    after: list[dict[str, Any]]
    """What acts between the last step of each epoch and the next one: restarts, validation, selection."""

    @classmethod
    def of(cls, experiment: Experiment, images: int, data_digest: str) -> Course:
        """The course of a training on so many images of the prepared data with this digest."""
        epochs = range(1, experiment.training.epochs + 1)
        steps = [-(-images // experiment.sizes_in(epoch).batch) for epoch in epochs]
        return cls(
            {**_lasting(experiment), "images": images, "prepared data": data_digest},
            steps,
            [_during(experiment, epoch, count) for epoch, count in zip(epochs, steps, strict=True)],
            [_after(experiment, epoch) for epoch in epochs],
        )

    @cached_property
    def keys(self) -> dict[Position, str]:
        """A digest for every moment at the end of an epoch's steps or of an epoch, of all that decides up to there."""
        found: dict[Position, str] = {}
        chain = hashlib.sha256(json.dumps(self.lasting, sort_keys=True).encode())
        for epoch, (steps, during, after) in enumerate(zip(self.steps, self.during, self.after, strict=True), start=1):
            for moment, content in (((epoch - 1, steps), during), ((epoch, 0), after)):
                chain.update(json.dumps(content, sort_keys=True).encode())
                found[moment] = chain.hexdigest()[:32]
        return found

    def leaves(self, other: Course) -> str | None:
        """Where this course first leaves another, and in what; None where it is the other one or a part of it."""
        if what := _difference(self.lasting, other.lasting):
            return f"from the start in {what}"
        for epoch, (ours, theirs) in enumerate(zip(self._epochs, other._epochs, strict=False), start=1):
            if what := _difference(ours, theirs):
                return f"in epoch {epoch} in {what}"
        return None

    @property
    def _epochs(self) -> Iterator[dict[str, Any]]:
        return ({**during, **after} for during, after in zip(self.during, self.after, strict=True))


def _lasting(experiment: Experiment) -> dict[str, Any]:
    identity, training, method = experiment.training_identity(), experiment.training, experiment.method
    own = identity.pop("learners")
    asks = any(learner.objective.asks_for_last_epoch for learner in method.learners.values())
    return {
        **identity,
        "training": training.model_dump(mode="json", exclude=_BY_EPOCH),
        "learners": {name: {key: own[name][key] for key in own[name].keys() - {"schedule"}} for name in own},
        "mixture": (method.mixture or SingleSettings()).lasting(training.epochs),
        "last epoch": training.epochs if asks else None,
        "batches of validation": experiment.sizes_in(training.epochs).batch,
        "norms of validation": sorted({attack.norm for attack in experiment.evaluation.attacks.values()}),
    }


_BY_EPOCH = {"epochs", "phases", "validation_interval"} | HOW_TO_TRAIN
"""Settings of training of which `_during` and `_after` say what they mean, and those that are no part of an identity:
a training may also be continued with other threads."""


def _during(experiment: Experiment, epoch: int, steps: int) -> dict[str, Any]:
    rule, epochs = experiment.method.mixture or SingleSettings(), experiment.training.epochs
    learners = experiment.method.learners
    return {
        "learning rates": {name: _rates(learner.schedule, epoch, steps) for name, learner in learners.items()},
        "learners that train": [name for name in learners if rule.trains(name, epoch)],
        "sizes": str(experiment.sizes_in(epoch)),
        **rule.course(epoch, epochs)[0],
    }


def _after(experiment: Experiment, epoch: int) -> dict[str, Any]:
    rule, training = experiment.method.mixture or SingleSettings(), experiment.training
    return {
        **rule.course(epoch, training.epochs)[1],
        "validation": epoch % training.validation_interval == 0 or epoch == training.epochs,
        "selection": epoch >= rule.complete_from(training.epochs),
    }


def _rates(schedule: Schedule, epoch: int, steps: int) -> list[float]:
    if schedule.every == "epoch":
        return [schedule.at(epoch)]
    return [schedule.at(epoch, step / steps) for step in range(1, steps + 1)]


def _difference(ours: Any, theirs: Any) -> str | None:
    """The name of the first value that differs, with both; None where all are equal."""
    if ours == theirs:
        return None
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return f": {json.dumps(ours)}, there {json.dumps(theirs)}"
    key = next(key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key))
    inner = _difference(ours.get(key), theirs.get(key)) or ""
    return f"{key}{inner if inner.startswith(':') else f' of {inner}'}"
