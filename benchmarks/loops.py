"""A training step of any method by the engine, to be timed: as it is, or with habits that it does without."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.frame import Timer, timer
from benchmarks.reference_style import (
    CHANNELS_FIRST,
    CLONED_AVERAGES,
    FLOAT32,
    LOSS_AT_ONCE,
    METER,
    PARAMETER_GRADIENTS,
    TENSOR_BY_TENSOR,
    averages_by_cloning,
    follow_by_cloning,
    parameter_gradients_while_crafting,
)
from pipeline.config import DataSettings, Experiment, LearnerSettings, MixtureSettings, MovingAverageSettings, Params
from pipeline.config.composing import compose_suite
from pipeline.core.datasets import DATASETS
from pipeline.core.devices import Backend
from pipeline.data.images import ImageSplit, load_split
from pipeline.data.prepare import prepare
from pipeline.evaluation.predictions import channels_last
from pipeline.models import build_model
from pipeline.objectives import Moment
from pipeline.training.learner import Learner
from pipeline.training.mesh import ONE_PROCESS
from pipeline.training.mixture import GlobalLearner, Mixture
from pipeline.training.run import build_learners

REPOSITORY = Path(__file__).resolve().parent.parent
THREADS = torch.get_num_threads()
"""What torch has chosen for this machine."""
EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10

Part = tuple[float, Callable[[], None]]
"""The share of the epochs in which a part of the step is done, and the part."""


class Loop:
    """A step of some learners and their mixture, with or without habits.

    Args:
        learners: All on the backend's device.
        mixture: None: there is one learner.
        backend: What the learners were built with; in float32, or waiting for losses, where they have that habit.
        habits: Some of `benchmarks.reference_style.HABITS`.
        settings: Of the mixture, which say in which epochs a learner trains.
        epochs: The last epoch, which the step is of.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        mixture: Mixture | None,
        backend: Backend,
        habits: Collection[str] = (),
        settings: MixtureSettings | None = None,
        epochs: int = 1,
    ) -> None:
        self.learners, self.mixture, self.backend = list(learners), mixture, backend
        self._habits, self._settings, self._epochs = habits, settings, epochs
        self._noise = torch.Generator(device=backend.device).manual_seed(0)
        keeps_averages = CLONED_AVERAGES in habits and mixture is not None
        self._averages = [dict(learner.model.state_dict()) for learner in self.learners if keeps_averages]
        for learner in self.learners:
            if CHANNELS_FIRST in habits:
                learner.model.to(memory_format=torch.contiguous_format)
            if TENSOR_BY_TENSOR in habits:
                for group in learner.optimizer.param_groups:
                    group["foreach"] = False

    @classmethod
    def of(cls, experiment: Experiment, backend: Backend, habits: Collection[str] = ()) -> Loop:
        """The loop of an experiment, at its last epoch."""
        # An update that the device may skip by itself needs a fused optimizer.
        at_once = LOSS_AT_ONCE in habits or TENSOR_BY_TENSOR in habits
        backend = replace(
            backend, bfloat16=backend.bfloat16 and FLOAT32 not in habits, deferred=backend.deferred and not at_once
        )
        settings, epochs = experiment.method.mixture, experiment.training.epochs
        learners = build_learners(experiment, backend)
        mixture = None if settings is None else settings.build(learners, epochs, ONE_PROCESS)
        return cls(learners, mixture, backend, habits, settings, epochs)

    def parts(self, images: Tensor, labels: Tensor) -> list[Part]:
        """One for every learner and one for the mixture; images (batch, channels, height, width) in [0, 1]."""
        images = images.contiguous() if CHANNELS_FIRST in self._habits else channels_last(images)

        def part(learner: Learner) -> Callable[[], None]:
            return lambda: self._step(learner, images, labels)

        parts: list[Part] = [(self._share(learner), part(learner)) for learner in self.learners]
        return parts if self.mixture is None else [*parts, (1.0, self._mix)]

    def step(self, images: Tensor, labels: Tensor) -> None:
        """All parts, once."""
        for _, part in self.parts(images, labels):
            part()

    def timer(self, images: Tensor, labels: Tensor) -> Timer:
        """Measures the seconds of a step; a learner that rests in some epochs counts for its share of them."""
        timers = [(share, timer(part, self.backend.device)) for share, part in self.parts(images, labels)]
        return lambda: sum(share * measure() for share, measure in timers)

    def _share(self, learner: Learner) -> float:
        epochs = range(1, self._epochs + 1)
        return sum(self._settings is None or self._settings.trains(learner.name, each) for each in epochs) / len(epochs)

    def _step(self, learner: Learner, images: Tensor, labels: Tensor) -> None:
        with ExitStack() as stack:
            if PARAMETER_GRADIENTS in self._habits:
                stack.enter_context(parameter_gradients_while_crafting())
            if CLONED_AVERAGES in self._habits:
                stack.enter_context(averages_by_cloning())
            learner.step(images, labels, Moment(self._epochs, self._epochs, self._noise, learner.memory))
        if METER in self._habits:
            with torch.no_grad(), self.backend.autocast():
                (learner.model(images).argmax(1) == labels).float().mean().item()

    def _mix(self) -> None:
        assert self.mixture is not None
        if CLONED_AVERAGES not in self._habits:
            self.mixture.after_step(self._epochs)
            return
        with averages_by_cloning():
            self.mixture.after_step(self._epochs)
        for average, learner in zip(self._averages, self.learners, strict=True):
            follow_by_cloning(average, learner.model)


def suite(*overrides: str) -> Params:
    """What `params.yaml` would be for Hydra `overrides`."""
    return compose_suite(overrides, REPOSITORY / "conf").params


def images_of(data: DataSettings) -> ImageSplit:
    """The images of a data set that fits in memory, prepared in a folder that is gone afterwards."""
    with TemporaryDirectory() as folder:
        prepare(data, Path(folder))
        return load_split(Path(folder), data)


def generalist(architecture: str, dataset: str, objectives: dict[str, dict[str, Any]], backend: Backend) -> Loop:
    """A Generalist whose learners, named by the keys of `objectives`, all count alike."""
    learners = [_learner(architecture, dataset, name, objective, backend) for name, objective in objectives.items()]
    content = {
        "rule": "moving_average",
        "breakpoints": [0],
        "mixing_ratios": {name: [1 / len(objectives)] for name in objectives},
        "decay": 0.999,
        "warmup_epochs": 1,
        "communication_interval": 1,
    }
    settings = MovingAverageSettings.model_validate(content)
    return Loop(learners, GlobalLearner(settings, learners, epochs=1), backend, settings=settings)


def _learner(architecture: str, dataset: str, name: str, objective: dict[str, Any], backend: Backend) -> Learner:
    budget = {"epsilon": EPSILON, "step_size": STEP_SIZE, "steps": STEPS}
    content = {
        "objective": objective,
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "weight_decay": 5e-4},
        "schedule": {"epochs": [0], "values": [1]},
    }
    threat_model = {"linf": budget, "l2": {**budget, "epsilon": 128 / 255, "step_size": 32 / 255}}
    settings = LearnerSettings.model_validate(content, context={"threat_model": threat_model})
    return Learner(name, settings, backend.place(build_model(architecture, dataset)), backend)


def minibatch(dataset: str, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Made-up images of a data set's shape, (count, channels, size, size) in [0, 1], and labels (count,)."""
    facts = DATASETS[dataset]
    images = torch.rand((count, *facts.shape), generator=torch.Generator().manual_seed(0))
    return images.to(device), torch.arange(count, device=device) % len(facts.classes)
