"""Networks are compiled where so much is planned that it pays, and not before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.experiments.backend import WORTH, forward_operations, passes_of_training, training_backend
from tests.conftest import MakeParams


def test_passes_are_those_of_attacks_and_updates(make_params: MakeParams) -> None:
    params = make_params(lambda content: content["training"].update(epochs=5))
    steps = {norm: budget.steps for norm, budget in params.experiment("at", 1).threat_model.items()}
    each = {"nt": 3, "at": 3 + 2 * steps["linf"], "generalist_t": 9 + 2 * (steps["linf"] + steps["l2"])}
    assert {name: passes_of_training(params.experiment(name, 1), 7) for name in each} == {
        name: 7 * 5 * passes for name, passes in each.items()
    }


def test_operations_are_those_of_the_convolutions_and_the_last_layer(make_params: MakeParams) -> None:
    experiment = make_params().experiment("at", 1)
    model = experiment.build_model()
    counted: list[int] = []

    def count(module: Any, inputs: Any, output: torch.Tensor) -> None:
        counted.append(2 * module.weight[0].numel() * output.numel())

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    model.eval()(torch.zeros(1, 1, 8, 8))
    assert forward_operations(experiment) == sum(counted) > 0


@pytest.mark.parametrize("setting", [True, False])
def test_who_says_so_is_obeyed(make_params: MakeParams, setting: bool) -> None:
    experiment = make_params(lambda content: content["training"].update(compile=setting)).experiment("at", 1)
    assert training_backend(experiment, 10**12, pytest.fail).compiled is setting


def test_auto_compares_what_is_planned_with_what_it_takes(make_params: MakeParams) -> None:
    def compiled(images: float, **training: Any) -> tuple[bool, list[str]]:
        settings = {"compile": "auto", "threads": 2, "device": "cpu", "precision": "bfloat16", **training}
        params, said = make_params(lambda content: content["training"].update(settings)), list[str]()
        return training_backend(params.experiment("at", 1), int(images), said.append).compiled, said

    experiment = make_params().experiment("at", 1)
    enough = 2 * WORTH / (passes_of_training(experiment, 1) * forward_operations(experiment))
    assert compiled(48) == (False, []) and compiled(2 * enough, precision="float32") == (False, [])
    (less, said), (more, then) = compiled(0.9 * enough), compiled(1.1 * enough)
    assert not less and more and "are not compiled" in said[0] and "are compiled" in then[0]
    assert all("it pays from 2e+14 on (training.compile: true or false overrules)" in line for line in said + then)
