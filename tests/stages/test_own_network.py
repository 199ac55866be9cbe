"""A network of timm, and one of one's own, from settings to an exported model: every stage takes them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.api import load_model
from pipeline.config import load_params
from tests.running import few_steps
from tests.stages.conftest import MakeWorkplace, Workplace
from tests.training.test_own_networks import PATH as AWKWARD

METHOD, BASELINE = "generalist_t", "at"
SMALL = {"model_name": "mobilenetv3_small_050", "drop_rate": 0.1}
NETWORK = {"architecture": "timm:create_model", "fit": True, "arguments": SMALL}


def shrink(content: dict[str, Any]) -> None:
    """Generalist-T and AT for an epoch, PGD and AutoAttack on a handful of images, a Grad-CAM figure."""
    content["model"].update(NETWORK)
    content["methods"] = {name: content["methods"][name] for name in (METHOD, BASELINE)}
    content["methods"][BASELINE]["learners"]["linf"]["architecture"] = AWKWARD
    content["training"]["epochs"] = 1
    for method in content["methods"].values():
        for learner in method["learners"].values():
            learner["schedule"] = {"epochs": [0, 1], "values": [1, 1]}
    mixture = content["methods"][METHOD]["mixture"]
    mixture.update(breakpoints=[0], warmup_epochs=1, communication_interval=1)
    mixture["mixing_ratios"] = dict(zip(mixture["mixing_ratios"], ([0.4], [0.3], [0.3]), strict=True))
    pgd = {"name": "pgd", "norm": "linf", "epsilon": "8/255", "step_size": "2/255", "steps": 2}
    autoattack = {"name": "autoattack", "norm": "linf", "epsilon": "8/255", "images": 4}
    content["evaluation"] = {
        "batch_size": 16,
        "attacks": {"pgd": pgd, "aa_linf": autoattack},
        "union": ["pgd", "aa_linf"],
    }
    content["tables"], content["ablation"] = {}, {}
    camera = {"kind": "grad_cam", "caption": "What they see", "view": "natural"}
    content["figures"] = {"seen": {**camera, "baselines": [BASELINE], "methods": [METHOD], "images": 2}}


@pytest.fixture(scope="module")
def place(make_workplace: MakeWorkplace) -> Workplace:
    """A folder where both methods were trained and evaluated."""
    made = make_workplace(shrink)
    for method in (METHOD, BASELINE):
        made.call("train", method, "--seed", "1").expect(0)
        with few_steps():
            made.call("evaluate", method, "--seed", "1").expect(0)
    return made


def test_it_is_evaluated_and_its_grad_cam_drawn(place: Workplace) -> None:
    metrics = json.loads((place.folder / f"results/digits/{METHOD}-1/evaluate/metrics.json").read_text())["metrics"]
    assert {"natural", "pgd", "aa_linf"} <= metrics.keys() and all(0 <= value <= 1 for value in metrics.values())
    place.call("figures").expect(0)
    assert list((place.folder / "reports").rglob("seen.pdf"))


@pytest.mark.parametrize("method", [METHOD, BASELINE])
def test_it_is_exported_and_loads_as_its_card_says(place: Workplace, method: str) -> None:
    place.call("export", f"{method}-1").expect(0)
    folder = place.folder / f"exports/digits/{method}-1"
    experiment = load_params(place.folder / "params.yaml").experiment(method, 1)
    assert 'model = load_model(".")' in (folder / "README.md").read_text()
    model = load_model(folder)
    ours = experiment.build_model().eval()
    ours.load_state_dict(load_file(place.folder / f"results/digits/{method}-1/train/model.safetensors"))
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(model(images), ours(images))
    (info,) = (folder / "model_info/digits/Linf").iterdir()
    assert json.loads(info.read_text())["architecture"] == experiment.architecture
    assert info.stem == f"{method}-1_{re.sub('[.:]', '_', experiment.architecture)}"


def test_its_weights_are_evaluated_as_any_others(place: Workplace) -> None:
    weights = place.folder / f"results/digits/{METHOD}-1/train/model.safetensors"
    done = place.call("evaluate_weights", str(weights), "--attacks", "pgd", "--images", "8")
    done.expect(0)
    assert "natural" in done.out


def test_stages_say_what_is_wrong_with_a_network_in_a_line(place: Workplace) -> None:
    before = (place.folder / "params.yaml").read_text()
    try:
        place.change(lambda content: content["model"].update(architecture="torchvision.models:resnet19"))
        for stage, arguments in (("train", (METHOD, "--seed", "1")), ("evaluate", (METHOD, "--seed", "1"))):
            place.call(stage, *arguments).expect(2, "" if stage == "evaluate" else "did you mean 'resnet18' or")
        place.change(lambda content: content["model"].update(architecture="torchvision.model:resnet18"))
        for stage in ("train", "plan", "figures"):
            place.call(stage, *((METHOD, "--seed", "1") if stage == "train" else ())).expect(
                2, "did you mean 'models'?"
            )
    finally:
        (place.folder / "params.yaml").write_text(before)
