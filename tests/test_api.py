"""What Python offers works as its page says, without MLflow, Prefect and DVC."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from pipeline import api
from pipeline.config import Experiment, parse_params
from pipeline.core.errors import Interrupted, RequestError
from pipeline.core.progress import TrainingDisplay
from pipeline.reporting.api_page import PAGE, write_page
from tests.conftest import REPOSITORY, TINY
from tests.data.own import write_folders
from tests.running import few_steps
from tests.stages.conftest import clean_environment
from tests.test_readme import README, blocks

SMALLER = f"""
import sys
from tests.running import few_steps
from pipeline import api

full = api.compose
api.compose = lambda *overrides: full(*overrides, *{TINY!r})
few_steps().__enter__()
"""
"""Put before the code of a page: the suite small, AutoAttack short; what the page says is run as it is."""
AFTER = """
loaded = sorted({"mlflow", "prefect", "dvc"} & set(sys.modules))
assert not loaded, loaded
"""


def run(code: str, folder: Path) -> str:
    """What the code prints, in a process of its own."""
    environment = clean_environment()
    command = [sys.executable, "-c", SMALLER + code + AFTER]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_is_what_the_docstrings_say() -> None:
    assert (REPOSITORY / PAGE).read_text() == write_page(api), "python -m stages.publish --pages writes it"


def test_the_python_of_the_readme_works_as_printed(tmp_path: Path, tiny_content: dict[str, Any]) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_content, sort_keys=False))
    (shown,) = blocks(README, "python")
    assert "'natural': " in run(shown, tmp_path)


@pytest.fixture(scope="module")
def experiment(tiny_content: dict[str, Any]) -> Experiment:
    """One learner and one attack."""
    content = deepcopy(tiny_content)
    content["training"]["device"] = "cpu"
    attacks = content["evaluation"]["attacks"]
    kept = ["pgd20_linf", "aa_linf"]
    content["evaluation"] |= {"attacks": {name: attacks[name] for name in kept}, "union": kept}
    content["tables"], content["figures"], content["search"] = {}, {}, None
    return parse_params(content).experiment("at", 1)


@pytest.fixture(scope="module")
def place(
    experiment: Experiment, tmp_path_factory: pytest.TempPathFactory, prepared_digits: Path
) -> Iterator[SimpleNamespace]:
    """The current folder, where `experiment` is trained and evaluated."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(prepared_digits, folder / "data/prepared/digits")
    with pytest.MonkeyPatch.context() as patch, few_steps():
        patch.chdir(folder)
        yield SimpleNamespace(folder=folder, weights=api.train(experiment), metrics=api.evaluate(experiment))


def test_any_network_is_evaluated_as_an_experiments_own_is(place: SimpleNamespace, experiment: Experiment) -> None:
    loaded = api.load_model(place.weights)
    assert not loaded.training
    assert api.evaluate(experiment, loaded) == place.metrics
    with pytest.raises(RequestError, match="train mode"):
        api.evaluate(experiment, loaded.train())


def test_predictions_are_those_of_the_verdicts(place: SimpleNamespace, experiment: Experiment) -> None:
    images, labels = api.load_images(experiment)
    assert images.shape == (24, 1, 8, 8) and len(api.load_images(experiment, 5)[1]) == 5
    model = api.load_model("results/digits/at-1").train()
    predicted = api.predict(model, images, batch_size=7)
    assert model.training and predicted.dtype == torch.int64
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
    api.predict(model, images)
    with pytest.raises(RuntimeError):
        api.predict(model, images.repeat(1, 3, 1, 1))
    assert model.training and not frozen.training
    assert (predicted == labels).float().mean().item() == pytest.approx(place.metrics["natural"])
    assert torch.equal(api.predict(model, images.mul(255).round().to(torch.uint8)), predicted)


def test_another_folder_is_refused(place: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has no model\.safetensors"):
        api.load_model(tmp_path)
    shutil.copy(place.weights / "model.safetensors", tmp_path)
    with pytest.raises(RequestError, match=r"experiment\.json: is missing"):
        api.load_model(tmp_path)
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(RequestError, match="of another version"):
        api.load_model(tmp_path)
    shutil.copy(place.weights / "experiment.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(RequestError, match="is damaged"):
        api.load_model(tmp_path)


def foreign() -> nn.Module:
    """A network that knows nothing of this project, in train mode."""
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 10)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*layers)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 2.0)])
def test_a_foreign_network_is_attacked_and_left_as_it_is(norm: Any, epsilon: float) -> None:
    model, images = foreign(), torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = api.predict(model, images)
    found = api.attack(model, images, labels, norm=norm, epsilon=epsilon, steps=5)
    change = (found - images).flatten(1)
    sizes = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    assert sizes.max() <= epsilon * (1 + 1e-4) and sizes.max() > 0.9 * epsilon
    assert (api.predict(model, found) != labels).float().mean() > 0.5
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(api.attack(model, images, labels, norm=norm, epsilon=epsilon, steps=5), found)
    assert not torch.equal(api.attack(model, images, labels, norm=norm, epsilon=epsilon, steps=5, seed=1), found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": torch.full((2, 3, 16, 16), 2.0)}, r"images in \[0, 1\], got values from 2 to 2"),
        ({"images": torch.zeros(2, 3)}, "shape .2, 3."),
        ({"images": torch.zeros(2, 3, 16, 16, dtype=torch.int64)}, "int64"),
        ({"images": np.zeros((2, 3, 16, 16))}, "images as a tensor, got ndarray; torch.from_numpy"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "one for each of 2 images"),
        ({"norm": "l3"}, "norm"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"steps": -1}, "steps"),
        ({"step_size": 0.0}, "step_size"),
    ],
)
def test_a_wrong_request_for_an_attack_is_refused(change: dict[str, Any], said: str) -> None:
    right: dict[str, Any] = {"images": torch.zeros(2, 3, 16, 16), "labels": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(RequestError, match=said):
        api.attack(foreign(), **{**right, **change})


def test_doubles_and_small_labels_are_taken(tmp_path: Path) -> None:
    """As `torch.from_numpy(pixels / 255.0)` and many data sets give them."""
    model, images = foreign(), torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = api.predict(model, images.double())
    found = api.attack(model, images.double(), labels.to(torch.int32), steps=2)
    assert found.dtype == torch.float32 and torch.equal(found, api.attack(model, images, labels, steps=2))
    assert torch.equal(api.predict(model.double(), images), labels)
    assert api.attack(model, images, labels, steps=2).dtype == torch.float64


def test_images_and_a_network_of_ones_own_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_folders(tmp_path / "pictures", train=9, test=3)
    overrides = ["suite=own", f"data.root={root}", "data.size=16", "training.epochs=1", "training.batch_size=8"]
    attacks = [f"evaluation.attacks.{name}=null" for name in ("pgd100_linf", "pgd100_l2", "large_linf", "large_l2")]
    params = api.compose(*overrides, *attacks, "model.architecture=torchvision.models:resnet18", "+model.fit=true")
    experiment = params.experiment("at", 1)
    model = api.load_model(api.train(experiment))
    images, labels = api.load_images(experiment)
    assert images.shape == (9, 3, 16, 16) and sorted(set(labels.tolist())) == [0, 1, 2]
    assert model(images).shape == (9, 3)


def test_ctrl_c_saves_and_the_same_call_continues(
    place: SimpleNamespace, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = experiment.model_copy(update={"seed": 2})
    original, before = TrainingDisplay.on_step, signal.getsignal(signal.SIGINT)

    def interrupt(display: TrainingDisplay, epoch: int, step: int, *told: Any) -> None:
        original(display, epoch, step, *told)
        if (epoch, step) == (2, 2):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingDisplay, "on_step", interrupt)
    with pytest.raises(Interrupted, match="saved"):
        api.train(other)
    assert signal.getsignal(signal.SIGINT) is before
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(TrainingDisplay, "on_step", lambda display, epoch, step, *told: steps.append((epoch, step)))
    api.train(other)
    assert steps[0] == (2, 3) and steps[-1] == (4, 3)


def test_training_is_tracked_when_asked(
    place: SimpleNamespace, experiment: Experiment, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.tracking import finished_runs

    shutil.copy(empty_store, "tracked.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place.folder}/tracked.db")
    assert finished_runs([experiment]).empty
    api.train(experiment, tracked=True)
    api.evaluate(experiment, tracked=True)
    (row,) = (row for _, row in finished_runs([experiment]).iterrows())
    assert row["metric.natural"] == pytest.approx(place.metrics["natural"])
