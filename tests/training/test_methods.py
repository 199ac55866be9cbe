"""Every method of `params.yaml`: it trains, moves its weights, repeats to the bit, and continues to the bit."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Experiment, parse_params
from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted
from pipeline.data.images import ImageSplit
from pipeline.objectives import Moment
from pipeline.training.loop import train
from pipeline.training.run import build_learners, build_network
from tests.conftest import TINY, content_of
from tests.running import Recorder, assert_same, run_experiment

CONTENT = content_of(*TINY[1:], "competitors=all")
METHODS = list(CONTENT["methods"])
LATE = {"fat": {"tau_grows_after": [0.5]}, "agr": {"starts_after": 0.5}, "part": {"warmup": 0.5}}
"""The second of two epochs is the late phase."""


def two_epochs(
    method: str,
    change: Callable[[dict[str, Any]], None] = lambda entry: None,
    content: dict[str, Any] = CONTENT,
) -> Experiment:
    """An experiment of `content` that is short and has every schedule's late phase: friendly steps, rebuilt gradients,
    masks, copies; its method's entry changed. All attacks take the threat model's steps, own recipes' too."""
    raw = deepcopy(content)
    steps = raw["threat_model"]["linf"]["steps"]
    raw["training"]["epochs"] = 2
    for entry in raw["methods"].values():
        for own in ("epochs", "batch_size"):
            entry.pop(own, None)
        for learner in entry["learners"].values():
            objective = learner["objective"]
            learner["schedule"].update(epochs=[0, 2], values=[1, 0.1])
            objective.update(LATE.get(objective["name"], {}))
            for attack in [objective.get("attack", {}), *objective.get("attacks", [])]:
                attack.update(steps=steps)
        if entry["mixture"] and entry["mixture"]["rule"] == "mode_connectivity":
            entry["mixture"].update(path_starts_after=1, points=3)
        elif entry["mixture"] and entry["mixture"]["rule"] == "moving_average":
            ratios = {name: [values[0], values[-1]] for name, values in entry["mixture"]["mixing_ratios"].items()}
            entry["mixture"].update(breakpoints=[0, 2], mixing_ratios=ratios, warmup_epochs=1, communication_interval=1)
    change(raw["methods"][method])
    return parse_params(raw).experiment(method, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_repeats_and_continues(
    tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, method: str
) -> None:
    experiment = two_epochs(method)
    first = run_experiment(experiment, tiny_split, cpu, tmp_path / "first")
    second = run_experiment(experiment, tiny_split, cpu, tmp_path / "second")
    assert_same(dict(first.result.model.state_dict()), dict(second.result.model.state_dict()))
    for record in first.observer.records:
        assert record["images_per_second"] > 0
        assert all(torch.isfinite(torch.tensor(value)) for value in record.values())
    for name in experiment.method.learners:
        start = dict(build_network(experiment, name, cpu).named_parameters())
        trained = {key.removeprefix("middle."): tensor for key, tensor in first.learner(name).items()}
        moved = [key for key, tensor in start.items() if not torch.equal(tensor, trained[key])]
        assert moved == list(start), f"{name}: {set(start) - set(moved)} did not move"
    stops = iter([False, False, False, False, True])
    with pytest.raises(Interrupted):
        train(experiment, tiny_split, cpu, tmp_path / "third", Recorder(), lambda: "stop" if next(stops) else None)
    third = train(experiment, tiny_split, cpu, tmp_path / "third", Recorder())
    assert_same(dict(first.result.model.state_dict()), dict(third.model.state_dict()))


GRADIENTS = {  # input gradients per image and step, for K = 2 attack steps
    "nt": 0, "at": 2, "at_l2": 2, "at_nt_linf": 2, "trades_1": 2, "trades_6": 2, "fat": 2, "iat": 2, "rst": 2,
    "score": 2, "score_pgd": 2, "agr": 2, "part": 2 + 1, "mart": 2, "fast_at": 1, "at_linf_l2": 2 * 2,
    "at_max": 2 * 3, "msd": 2, "eat": 3, "ramp": 2 * 3, "rmc": 2,
}  # fmt: skip
"""APGD takes one more gradient than steps, at the start; PART one for its map. Of several learners: the one with an
objective of its own."""
OWN_LEARNER = {"ramp": "robust", "rmc": "middle"}


@pytest.mark.parametrize("method", GRADIENTS)
def test_crafting_costs_the_input_gradients_that_the_algorithm_needs_and_no_others(
    tiny_split: ImageSplit, cpu: Backend, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = two_epochs(method)
    name = OWN_LEARNER.get(method) or next(iter(experiment.method.learners))
    settings = experiment.method.learners[name]
    learner = next(one for one in build_learners(experiment, cpu) if one.name == name)
    counted = 0
    original = torch.autograd.grad

    def counting(outputs: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        nonlocal counted
        if torch.is_tensor(inputs):
            counted += 1
            assert not any(parameter.requires_grad for parameter in learner.model.parameters())
        return original(outputs, inputs, *rest, **options)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    images, labels = tiny_split.train.batch(torch.arange(16))
    moment = Moment(epoch=2, epochs=2, generator=torch.Generator().manual_seed(0), state={})
    settings.objective(learner.model.train(), images, labels, moment)
    assert counted == GRADIENTS[method]
