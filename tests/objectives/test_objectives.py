"""Objectives equal their formulas, refuse options that they do not take, and are added without edits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.core.errors import RequestError
from pipeline.models import build_model
from pipeline.objectives import Moment, resolve_objective
from tests.conftest import MakeParams
from tests.running import RunExperiment

THREAT_MODEL = {"linf": {"epsilon": "8/255", "step_size": "2/255", "steps": 3}}


BUDGET = {"epsilon": 8 / 255, "step_size": 2 / 255}


def moment() -> Moment:
    return Moment(epoch=1, epochs=2, generator=torch.Generator().manual_seed(0))


def gradients(objective: dict[str, Any]) -> list[Tensor]:
    """Parameter gradients of an objective on a fixed batch and network, in train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small_cnn", "digits").train()
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    losses = resolve_objective(objective, {})(model, images, torch.arange(16) % 10, moment())
    torch.autograd.backward(losses.loss)
    assert losses.logits.shape == (16, 10) and not losses.logits.requires_grad
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_without_a_budget_adversarial_training_is_natural_training() -> None:
    """methods.md 1.1, test: the same parameter gradient as NT on the same batch."""
    attack = {"norm": "linf", "epsilon": 0, "step_size": 0.1, "steps": 2}
    for ours, natural in zip(
        gradients({"name": "adversarial", "attack": attack}), gradients({"name": "natural"}), strict=True
    ):
        assert torch.equal(ours, natural)


def test_the_norm_brings_its_budget_and_overrides_count() -> None:
    resolved = resolve_objective({"name": "adversarial", "norm": "linf", "attack": {"steps": 7}}, THREAT_MODEL)
    content = resolved.model_dump(mode="json")
    assert content["attack"] == {"norm": "linf", "start": "ball", **BUDGET, "steps": 7}
    assert resolve_objective(content, {}) == resolved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adversarial", "norm": "l2"}, "norm 'l2' has no budget in threat_model; norms with one: linf"),
        ({"name": "adversarial"}, r"option 'attack': Field required \(give 'norm'\)"),
        ({"name": "natural", "beta": 6}, "option 'beta': unknown key; Valid: name"),
        ({"name": "adversarial", "norm": "linf", "atack": {}}, "'atack': unknown key; did you mean 'attack'"),
        ({"name": "advesarial"}, "unknown objective 'advesarial': did you mean 'adversarial'"),
        ({"name": "base"}, "unknown objective 'base'"),
        ({"name": "no.such.module"}, "unknown objective 'no.such.module'"),
        ({}, "needs a 'name'"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_objective(options, THREAT_MODEL)


NEW_OBJECTIVE = '''
from typing import Literal
from torch.nn import functional
from pipeline.objectives import Losses, Objective

class Smoothed(Objective):
    """Cross-entropy with label smoothing: CE(f(x), (1 - s) y + s / K)."""

    name: Literal["smoothed_objective.smoothed"]
    smoothing: float

    def __call__(self, model, images, labels, moment):
        logits = model(images).float()
        return Losses(functional.cross_entropy(logits, labels, label_smoothing=self.smoothing), logits.detach())

OBJECTIVE = Smoothed
'''


def test_an_objective_is_added_without_editing_anything(
    make_params: MakeParams, run_method: RunExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "smoothed_objective"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "smoothed.py").write_text(NEW_OBJECTIVE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("smoothed_objective", None)

    def use(objective: dict[str, Any]) -> Any:
        return lambda raw: raw["methods"]["nt"]["learners"]["natural"].update(objective=objective)

    params = make_params(use({"name": "smoothed_objective.smoothed", "smoothing": 0.1}))
    trained = run_method(params, "nt")
    assert trained.observer.records[-1]["loss/natural"] > 0
    with pytest.raises(RequestError, match=r"methods\.nt\.learners\.natural\.objective: .*did you mean 'smoothing'"):
        make_params(use({"name": "smoothed_objective.smoothed", "smothing": 0.1}))
