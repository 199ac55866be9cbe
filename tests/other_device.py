"""On a device that is not the host nothing is mixed, waited for or raced, and the bits are those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.config import EvaluationAttack, EvaluationSettings, Experiment, Params, parse_params
from pipeline.config.composing import compose
from pipeline.core.devices import Arrival, Backend
from pipeline.data.images import ImageSplit
from pipeline.evaluation.attacks.autoattack import AutoAttack
from pipeline.evaluation.autoattack import flags
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.journal import Journal
from pipeline.models import build_model
from pipeline.objectives.part import radii
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.run import TrainingRun
from tests.conftest import REPOSITORY, TINY
from tests.pretend import Generator, Held, MixedDevices, WaitsForDevice, never_waits, present
from tests.running import assert_same, without_times

CONTENT: dict[str, Any] = yaml.safe_load(
    compose([item.replace("competitors=none", "competitors=all") for item in TINY], REPOSITORY / "conf")
)
METHODS = list(CONTENT["methods"])
WAITING = {
    "eat": "which norm comes next depends on how many images the last attack left correct",
    "fat": "images that are wrong leave the batch",
}
"""Methods whose next operation depends on values of the last one."""
SEVERAL = [name for name, method in CONTENT["methods"].items() if len(method["learners"]) > 1]


@pytest.fixture(scope="module")
def all_methods() -> Params:
    """The tiny suite with every competitor."""
    return parse_params(CONTENT)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device whose tensors are not the host's."""
    with present(monkeypatch) as found:
        yield found


def begin(experiment: Experiment, split: ImageSplit, device: torch.device, folder: Path) -> TrainingRun:
    """A run that reads losses later, as on CUDA."""
    backend = Backend(device, bfloat16=False, deferred=True)
    return TrainingRun(experiment, split, backend, CheckpointFolder(folder, experiment.fingerprint))


def values(model: nn.Module) -> dict[str, Tensor]:
    """Weights on the host."""
    found = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return {name: tensor.content if isinstance(tensor, Held) else tensor for name, tensor in found.items()}


def steps(run: TrainingRun, wait: bool = True) -> None:
    """A minibatch of the first and one of the last epoch."""
    for epoch in (1, 4):
        images, labels = next(run.batches(epoch))
        with nullcontext() if wait else never_waits():
            for learner in run.learners:
                run.step(learner, images, labels, epoch)
            run.mixture.after_step(epoch)
            run.progress.step = 1
            assert run.read_losses().keys() == {learner.name for learner in run.learners}
        run.progress.step = 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_at_home_on_another_device(
    all_methods: Params,
    tiny_split: ImageSplit,
    tmp_path: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    # IAT draws on the host in the middle of a step: on a CPU from the generator of the attack's noise, but not here.
    monkeypatch.setattr("pipeline.objectives.iat.on_host", lambda noise: Generator().manual_seed(noise.initial_seed()))
    experiment = all_methods.experiment(method, 1)
    ours, expected = (begin(experiment, tiny_split, each, tmp_path) for each in (device, torch.device("cpu")))
    steps(ours, wait=method in WAITING)
    steps(expected)
    for learner, twin in zip(ours.learners, expected.learners, strict=True):
        assert_same(values(learner.model), values(twin.model))
    assert_same(values(ours.mixture.model), values(expected.mixture.model))
    assert ours.progress.sums == expected.progress.sums


@pytest.mark.parametrize("method", WAITING)
def test_methods_that_must_wait_are_noticed(
    all_methods: Params, tiny_split: ImageSplit, tmp_path: Path, device: torch.device, method: str
) -> None:
    with pytest.raises(WaitsForDevice):
        steps(begin(all_methods.experiment(method, 1), tiny_split, device, tmp_path), wait=False)


def test_extra_images_of_rst_are_on_the_device(tiny_split: ImageSplit, tmp_path: Path, device: torch.device) -> None:
    images, labels = tiny_split.test.images, tiny_split.test.labels
    save_file({"images": images, "labels": labels}, tmp_path / "extra.safetensors")
    content = deepcopy(CONTENT)
    for learner in content["methods"]["rst"]["learners"].values():
        learner["objective"]["extra_images"] = str(tmp_path / "extra.safetensors")
    experiment = parse_params(content).experiment("rst", 1)
    run = begin(experiment, tiny_split, device, tmp_path)
    steps(run)
    steps(run, wait=False)


def test_radii_of_colour_images_are_made_on_the_device(device: torch.device) -> None:
    images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    model = build_model("small_cnn", "cifar10").eval()
    expected = radii(model, images, 8 / 255, 7 / 255)
    there = images.to(device)
    model = model.to(device)
    with never_waits():
        found = radii(model, there, 8 / 255, 7 / 255)
    assert isinstance(found, Held)
    assert torch.equal(found.content, expected)


def test_numbers_arrive_without_waiting_for_what_follows(device: torch.device) -> None:
    numbers = torch.ones(2, device=device)
    with never_waits():
        first = Arrival(2 * numbers)
        second = Arrival(3 * numbers)
        assert first.read() == [2, 2]
        assert second._values.isnan().all(), "nobody has waited for them"
        assert second.read() == [3, 3]


@pytest.mark.parametrize("method", SEVERAL)
def test_epochs_on_another_device_are_those_of_the_cpu(
    all_methods: Params, tiny_split: ImageSplit, tmp_path: Path, device: torch.device, method: str
) -> None:
    """Two epochs, so that memory is freed and given again, and the mixture reads what the learners wrote."""
    experiment = all_methods.experiment(method, 1)
    ours, expected = (begin(experiment, tiny_split, each, tmp_path) for each in (device, torch.device("cpu")))
    for run in (ours, expected):
        for epoch in (1, 2):
            for images, labels in run.minibatches_left(epoch):
                for learner in run.training_in(epoch):
                    run.step(learner, images, labels, epoch)
                run.follow(epoch)
                run.end_step(epoch)
            run.finish_epoch(epoch)
    assert_same(values(ours.mixture.model), values(expected.mixture.model))
    assert without_times(ours.progress.history) == without_times(expected.progress.history)


def test_verdicts_are_those_of_the_cpu(
    all_methods: Params, tiny_split: ImageSplit, digits_model: nn.Module, tmp_path: Path, device: torch.device
) -> None:
    settings, found = evaluation_in_short(all_methods), {}
    for place in (device, torch.device("cpu")):
        model, test = deepcopy(digits_model).to(place), tiny_split.test.to(place)
        verdicts = Evaluation(model, test, settings, Journal(tmp_path / place.type), Unwatched()).run()
        found[place.type] = verdicts, flags(model, test)
    ours, expected = found.values()
    pd.testing.assert_frame_equal(ours[0], expected[0])
    assert ours[1] == expected[1]
    assert set(ours[0]["attack"]) == {"natural", *settings.attacks}


class Unwatched:
    """An observer that looks away."""

    def on_attack(self, attack: str, pieces: int) -> None: ...

    def on_piece(self, part: str, robust: int, images: int, ends_batch: bool) -> None: ...


def evaluation_in_short(params: Params) -> EvaluationSettings:
    """Every attack on few images; Square, which asks the model thousands of times, where it soon finds something."""
    attacks: dict[str, EvaluationAttack] = {}
    for name, attack in params.evaluation.attacks.items():
        if not isinstance(attack, AutoAttack):
            attacks[name] = attack.model_copy(update={"images": 8})
            continue
        members = ["apgd_ce", "apgd_t", "fab_t"]
        attacks[name] = attack.model_copy(update={"images": 4, "members": members})
        easy = {"images": 4, "members": ["square"], "epsilon": 10 * attack.epsilon}
        attacks[f"{name}_square"] = attack.model_copy(update=easy)
    return params.evaluation.model_copy(update={"attacks": attacks})


def test_the_device_refuses_tensors_of_the_host(device: torch.device) -> None:
    with pytest.raises(MixedDevices):
        torch.ones(2, device=device) + torch.ones(2)
    with never_waits(), pytest.raises(WaitsForDevice):
        torch.ones((), device=device).item()
    with never_waits(), pytest.raises(WaitsForDevice):
        torch.ones(2, device=device).to("cpu")
    with never_waits(), pytest.raises(WaitsForDevice):
        torch.ones(2).to(device)
