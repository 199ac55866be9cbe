"""Running the engine on tiny experiments, and looking at what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.fab_base import FABAttack
from pyautoattack.square import SquareAttack
from torch import Tensor

from pipeline.config import Experiment
from pipeline.core.devices import Backend
from pipeline.data.images import ImageSplit
from pipeline.training.loop import train
from pipeline.training.run import TrainingResult

Weights = dict[str, Tensor]


@dataclass
class Recorder:
    """An observer that remembers."""

    messages: list[str] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)
    records: list[Mapping[str, float]] = field(default_factory=list)
    phases: list[int] = field(default_factory=list)
    """Steps of an epoch, where that changed."""

    def message(self, text: str) -> None:
        self.messages.append(text)

    def on_start(self, epochs: int, steps_per_epoch: int, first_epoch: int, first_step: int) -> None:
        pass

    def on_phase(self, steps_per_epoch: int) -> None:
        self.phases.append(steps_per_epoch)

    def on_step(self, epoch: int, step: int, losses: Mapping[str, float], images_per_second: float) -> None:
        self.steps.append((epoch, step))

    def on_epoch(self, record: Mapping[str, float]) -> None:
        self.records.append(record)


@dataclass
class Trained:
    """One finished training."""

    result: TrainingResult
    state: dict[str, Any]
    """The last checkpoint."""
    observer: Recorder

    def learner(self, name: str) -> Weights:
        weights: Weights = self.state["learners"][name]["model"]
        return weights

    def average(self, name: str) -> Weights:
        weights: Weights = self.state["learners"][name]["average"]["model"]
        return weights

    @property
    def mixture(self) -> Weights:
        weights: Weights = self.state["mixture"]["model"]
        return weights


RunExperiment = Callable[..., Trained]
TIMES = {"seconds", "images_per_second", "theory/seconds"}


def without_times(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The records of epochs, without what two equal trainings differ in."""
    return [{key: value for key, value in record.items() if key not in TIMES} for record in history]


def run_experiment(experiment: Experiment, split: ImageSplit, backend: Backend, folder: Path) -> Trained:
    """Train in a folder of its own, to the end."""
    observer = Recorder()
    result = train(experiment, split, backend, folder / experiment.fingerprint, observer)
    newest = max((folder / experiment.fingerprint / "checkpoints").glob("*.pt"))
    return Trained(result, torch.load(newest, weights_only=True), observer)


def assert_same(first: Weights, second: Weights) -> None:
    """Bit-identical, buffers included."""
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, f"differ: {different}"


FEW = ((APGDAttack, "n_iter", 20), (FABAttack, "n_iter", 10), (SquareAttack, "n_queries", 100))
"""Steps of the members of AutoAttack, ours and the package's; its own 100 and 5,000 would be nearly all of the time."""


@contextmanager
def few_steps() -> Iterator[None]:
    """Let every member of AutoAttack take the steps of `FEW` in this process, whatever it is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        for member, name, count in FEW:
            patch.setattr(member, name, fixed(count), raising=False)
        yield


def fixed(value: int) -> property:
    """An attribute that keeps its value whatever it is set to."""
    return property(lambda attack: value, lambda attack, other: None)
