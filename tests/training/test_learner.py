"""Learning rates within an epoch, weight decay of BatchNorm, and batches that grow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.config import SGDSettings
from pipeline.core.devices import Backend
from pipeline.data.images import ImageSplit
from pipeline.training.learner import build_optimizer
from pipeline.training.loop import train
from pipeline.training.run import build_learners
from tests.conftest import MakeParams
from tests.running import Recorder


@pytest.mark.parametrize(("every", "expected"), [("epoch", [0.5, 0.5, 0.5]), ("step", [1 / 6, 2 / 6, 3 / 6])])
def test_the_learning_rate_follows_its_schedule(
    make_params: MakeParams, cpu: Backend, every: str, expected: list[float]
) -> None:
    schedule = {"epochs": [0, 2], "values": [0, 1], "every": every}
    params = make_params(lambda raw: raw["methods"]["at"]["learners"]["linf"].update(schedule=schedule))
    learner, rates = build_learners(params.experiment("at", 1), cpu)[0], []
    for step in range(3):
        learner.set_learning_rate(1, (step + 1) / 3)
        rates.append(learner.optimizer.param_groups[0]["lr"] / 0.05)
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("decayed", [True, False])
def test_weight_decay_may_leave_batch_norm_alone(decayed: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
    before = [parameter.clone() for parameter in model.parameters()]
    settings = SGDSettings(name="sgd", learning_rate=0.1, weight_decay=0.5, decay_batch_norm=decayed)
    optimizer = build_optimizer(settings, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    convolution, scale, _ = [torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert not convolution and scale == (not decayed)


def test_batches_grow_from_phase_to_phase(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    phases = [{"first_epoch": 2, "batch_size": 24}, {"first_epoch": 4, "batch_size": 48}]
    experiment = make_params(lambda raw: raw["training"].update(phases=phases)).experiment("nt", 1)
    observer = Recorder()
    train(experiment, tiny_split, cpu, tmp_path, observer)
    assert [epoch for epoch, _ in observer.steps] == [1] * 3 + [2] * 2 + [3] * 2 + [4]
    assert observer.phases == [2, 1]
