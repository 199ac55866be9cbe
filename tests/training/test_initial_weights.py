"""Learners that start from a file: who they are, what they begin with, and what is refused before they do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from pipeline.config import Experiment, parse_params
from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted, RequestError
from pipeline.core.files import file_digest
from pipeline.data.images import ImageSplit
from pipeline.experiments.train import begin_training
from pipeline.models import build_model
from pipeline.provenance.addresses import write_addresses
from pipeline.provenance.code import code_of
from pipeline.reporting.explain import explain
from pipeline.studies.course import Course
from pipeline.studies.warm_ups import shared_warm_ups
from pipeline.training.loop import train
from pipeline.training.run import build_learners
from tests.conftest import REPOSITORY, MakeParams, content_of
from tests.running import Recorder, RunExperiment, assert_same
from tests.training.test_loop import StopAfter

D = "generalist_d_nt_linf"


@pytest.fixture
def file(tmp_path: Path, digits_model: nn.Module) -> Path:
    """Weights as others keep them."""
    torch.save(
        {"model": {f"module.{name}": value for name, value in digits_model.state_dict().items()}}, tmp_path / "a.pt"
    )
    return tmp_path / "a.pt"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    torch.save(build_model("small_cnn", "digits").state_dict(), tmp_path / "b.pt")
    return tmp_path / "b.pt"


def starts(value: Any, *methods: str) -> Callable[[dict[str, Any]], None]:
    """Lets every learner of methods start from `value`."""

    def change(raw: dict[str, Any]) -> None:
        for method in methods:
            for learner in raw["methods"][method]["learners"].values():
                learner["initial_weights"] = value if isinstance(value, dict) else str(value)

    return change


def test_the_content_is_its_identity_and_the_path_is_not(make_params: MakeParams, file: Path, other: Path) -> None:
    def fingerprint(value: Any) -> str:
        return make_params(starts(value, "at")).experiment("at", 1).fingerprint

    before, plain = fingerprint(file), make_params().experiment("at", 1)
    moved = file.rename(file.with_name("moved.pt"))
    assert fingerprint(moved) == fingerprint({"file": str(moved), "sha256": file_digest(moved)}) == before
    assert len({before, fingerprint(other), fingerprint({"file": str(moved), "key": "model"}), plain.fingerprint}) == 4
    assert plain.training_identity()["learners"]["linf"].keys().isdisjoint({"initial_weights"})


def test_a_stored_experiment_is_read_without_the_file(make_params: MakeParams, file: Path) -> None:
    experiment = make_params(starts(file, "at")).experiment("at", 1)
    file.unlink()
    assert Experiment.model_validate(experiment.model_dump(mode="json")).fingerprint == experiment.fingerprint


def test_every_learner_begins_with_the_file(
    make_params: MakeParams, file: Path, digits_model: nn.Module, cpu: Backend
) -> None:
    for learner in build_learners(make_params(starts(file, D)).experiment(D, 1), cpu):
        assert_same(learner.model.state_dict(), dict(digits_model.state_dict()))


def test_an_interrupted_training_continues_to_the_same_bits(
    make_params: MakeParams, file: Path, run_method: RunExperiment, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    params = make_params(starts(file, D))
    whole, folder = run_method(params, D), tmp_path / "interrupted"
    with pytest.raises(Interrupted):
        train(params.experiment(D, 1), tiny_split, cpu, folder, Recorder(), StopAfter(5))
    result = train(params.experiment(D, 1), tiny_split, cpu, folder, Recorder())
    assert_same(dict(result.model.state_dict()), dict(whole.result.model.state_dict()))
    plain = run_method(make_params(), D)
    assert whole.result.history[0]["loss/linf"] < plain.result.history[0]["loss/linf"], "it knows the digits already"


@pytest.mark.parametrize("shared", [True, False])
def test_warm_ups_are_shared_by_those_that_start_alike(
    make_params: MakeParams, file: Path, other: Path, shared: bool
) -> None:
    params = make_params(starts(file, D), starts(file if shared else other, "at"))
    assert len(shared_warm_ups([params.experiment(D, 1), params.experiment("at", 1)])) == shared


def test_a_course_with_another_start_leaves_at_once(make_params: MakeParams, file: Path, other: Path) -> None:
    first, second = (Course.of(make_params(starts(one, "at")).experiment("at", 1), 48, "data") for one in (file, other))
    assert not set(first.keys.values()) & set(second.keys.values())
    assert "from the start in learners of linf of initial_weights of sha256" in (first.leaves(second) or "")


def test_only_who_starts_from_a_file_has_the_code_that_reads_it(make_params: MakeParams, file: Path) -> None:
    params = make_params(starts(file, "at"))
    reads = {
        name: "pipeline.models.matching" in code_of("train", params.experiment(name, 1)).modules
        for name in ("at", "nt")
    }
    assert reads == {"at": True, "nt": False}


def normalised(raw: dict[str, Any]) -> None:
    raw["model"]["normalization"] = {"mean": [0.25], "std": [0.5]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no such file: "),
        ({"file": "none.pt"}, "no such file: none.pt"),
        (3, "no such file: 3"),
        ("text", "is damaged or no file of tensors"),
        ("resnet18_width16", r"it fits resnet18_width16 \(architecture\)"),
        ("behind a layer", r"model.normalization must be \{mean: \[0.25\], std: \[0.5\]\}"),
        ("changed", r"sha256 is \w{64}, expected 0{64}"),
    ],
)
def test_a_file_that_does_not_fit_is_a_mistake_of_the_settings(
    make_params: MakeParams, file: Path, digits_model: nn.Module, content: Any, text: str
) -> None:
    value: Any = file
    if content is None:
        file.unlink()
    elif content == "text":
        file.write_text("no weights")
    elif content == "resnet18_width16":
        torch.save(build_model(content, "digits").state_dict(), file)
    elif content == "behind a layer":
        torch.save({**digits_model.state_dict(), "mean": torch.tensor(0.25), "std": torch.tensor(0.5)}, file)
        make_params(starts(file, "at"), normalised)
    elif content == "changed":
        value = {"file": str(file), "sha256": "0" * 64}
    else:
        value = content
    with pytest.raises(RequestError, match=rf"methods\.at\.learners\.linf\.initial_weights: .*{text}") as told:
        make_params(starts(value, "at"))
    assert "1 mistake, nothing was started" in str(told.value)


def test_mixed_learners_start_alike(make_params: MakeParams, file: Path) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["methods"][D]["learners"]["linf"]["initial_weights"] = str(file)

    with pytest.raises(
        RequestError, match=r"learners that are mixed start from the same weights, here .* random weights"
    ):
        make_params(change)


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_is_gone_or_another_by_now_starts_no_training(
    make_params: MakeParams, file: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = make_params(starts(file, "at")).experiment("at", 1)
    file.unlink() if gone else other.rename(file)
    with pytest.raises(RequestError, match="no such file" if gone else "sha256 is"):
        begin_training(experiment, "data")
    assert not Path("runs").exists()


def test_a_cell_says_what_its_learners_start_from(make_params: MakeParams, file: Path, store: Path) -> None:
    said = explain(make_params(starts(file, "at")), "table1:at:natural")
    assert f"starts from           {file}, sha256 {file_digest(file)}" in said


def test_the_example_of_the_documentation_is_right(file: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/methods.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "initial_weights" in block)
    content = content_of("competitors=all")
    content["methods"] |= yaml.safe_load(re.sub(r"weights/\S+", str(file), example))["methods"]
    experiment = parse_params(content).experiment("eat_fine_tuned", 1)
    rates = [experiment.method.learners["multi"].schedule.at(epoch) for epoch in (1, 2, 3)]
    assert rates == [1, 0.1, 0.01] and experiment.training.epochs == 3 and experiment.initial_weights


def test_a_file_with_other_content_changes_the_address(
    make_params: MakeParams, raw: dict[str, Any], file: Path, other: Path, tmp_path: Path
) -> None:
    starts(file, "at")(raw)
    (tmp_path / "params.yaml").write_text(json.dumps(raw))
    output = tmp_path / "addresses.json"
    assert write_addresses(tmp_path / "params.yaml", output)
    before = json.loads(output.read_text())["train"]
    assert not write_addresses(tmp_path / "params.yaml", output)
    other.rename(file)
    assert write_addresses(tmp_path / "params.yaml", output)
    after = json.loads(output.read_text())["train"]
    assert {name for name in after if after[name] != before[name]} == {"at-1"}
