"""RMC: endpoints, then a path, then its best point, in one run (methods.md 1.16)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted
from pipeline.data.images import ImageSplit
from pipeline.models.bezier import bernstein
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train
from pipeline.training.mode_connectivity import ModeConnectivity
from pipeline.training.run import TrainingRun
from pipeline.training.weights import recompute_batch_norm
from tests.conftest import MakeParams
from tests.running import Recorder, RunExperiment, Trained, assert_same

SCHEDULE = {"epochs": [0, 2, 4], "values": [1, 0.1, 0.1]}


def rmc(**mixture: Any) -> Callable[[dict[str, Any]], None]:
    """RMC with two epochs for AT's learners and two for the path."""

    def add(raw: dict[str, Any]) -> None:
        learners = {"linf": raw["methods"]["at"]["learners"]["linf"], "l2": raw["methods"]["at_l2"]["learners"]["l2"]}
        middle = deepcopy(learners["linf"])
        middle["objective"] = {"name": "rmc", "norms": ["linf", "l2"]}
        learners["middle"] = middle
        for learner in learners.values():
            learner["schedule"] = SCHEDULE
        rule = {"rule": "mode_connectivity", "endpoints": ["linf", "l2"], "middle": "middle", "path_starts_after": 2}
        raw["methods"]["rmc"] = {"label": "RMC", "learners": learners, "mixture": {**rule, "points": 5, **mixture}}

    return add


def shorter(raw: dict[str, Any]) -> None:
    """End training with the endpoints' last epoch."""
    raw["training"]["epochs"] = 2
    raw["methods"] = {name: raw["methods"][name] for name in ("at", "at_l2")}
    raw["tables"] = raw["figures"] = {}
    for method in raw["methods"].values():
        for learner in method["learners"].values():
            learner["schedule"] = {"epochs": [0, 2], "values": [1, 0.1]}


@pytest.fixture
def trained(make_params: MakeParams, run_method: RunExperiment) -> Trained:
    return run_method(make_params(rmc()), "rmc")


def test_endpoints_train_first_then_the_middle(trained: Trained) -> None:
    losses = [{key for key in record if key.startswith("loss/")} for record in trained.observer.records]
    assert losses == [{"loss/linf", "loss/l2"}] * 2 + [{"loss/middle"}] * 2


def test_endpoints_are_standalone_runs_and_stay_as_they_are(
    trained: Trained, make_params: MakeParams, run_method: RunExperiment
) -> None:
    params = make_params(shorter)
    assert_same(trained.learner("linf"), run_method(params, "at").learner("linf"))
    assert_same(trained.learner("l2"), run_method(params, "at_l2").learner("l2"))


def test_the_result_is_the_best_point_of_the_path(trained: Trained) -> None:
    last = trained.observer.records[-1]
    scores = {float(key.removeprefix("path/")): value for key, value in last.items() if key.startswith("path/")}
    assert list(scores) == [0, 0.25, 0.5, 0.75, 1]
    chosen = last["path_position"]
    assert scores[chosen] == max(scores.values())
    assert trained.result.selected_epoch == 4
    first, second, third = bernstein(chosen)
    start, middle, end = (trained.learner(name) for name in ("linf", "middle", "l2"))
    for name, parameter in trained.result.model.named_parameters():
        expected = first * start[name] + second * middle[f"middle.{name}"] + third * end[name]
        torch.testing.assert_close(parameter.detach(), expected)


def test_statistics_belong_to_the_chosen_point(
    trained: Trained, make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    experiment = make_params(rmc()).experiment("rmc", 1)
    run = TrainingRun(experiment, tiny_split, cpu, CheckpointFolder(tmp_path, experiment.fingerprint))
    again = deepcopy(trained.result.model)
    recompute_batch_norm(again, (images for images, _ in run.batches(epoch=4)))
    assert_same(dict(again.state_dict()), dict(trained.result.model.state_dict()))


def test_until_the_endpoints_are_trained_the_path_is_straight(
    make_params: MakeParams, run_method: RunExperiment
) -> None:
    params = make_params(rmc(path_starts_after=3))
    records = run_method(params, "rmc").observer.records
    assert [record["path_position"] for record in records[:3]] == [0.5] * 3
    assert not any(key.startswith("path/") for record in records[:3] for key in record)


class Stop(Exception):
    """Stands for a kill: nothing is saved."""


def test_killed_while_points_are_compared_it_ends_the_same(
    trained: Trained,
    make_params: MakeParams,
    tiny_split: ImageSplit,
    cpu: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = make_params(rmc()).experiment("rmc", 1)
    original, calls = ModeConnectivity._move_to, 0

    def breaking(self: ModeConnectivity, position: float, images: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3 + 3:
            raise Stop
        original(self, position, images)

    monkeypatch.setattr(ModeConnectivity, "_move_to", breaking)
    with pytest.raises(Stop):
        train(experiment, tiny_split, cpu, tmp_path / "killed", Recorder())
    continued = train(experiment, tiny_split, cpu, tmp_path / "killed", Recorder())
    assert_same(dict(trained.result.model.state_dict()), dict(continued.model.state_dict()))


@pytest.mark.parametrize("steps", [2, 4, 7, 11])
def test_interrupted_in_any_stage_it_ends_the_same(
    trained: Trained, make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, steps: int
) -> None:
    experiment = make_params(rmc()).experiment("rmc", 1)
    reasons = iter([None] * steps + ["stop"])
    with pytest.raises(Interrupted):
        train(experiment, tiny_split, cpu, tmp_path / "stopped", Recorder(), lambda: next(reasons))
    continued = train(experiment, tiny_split, cpu, tmp_path / "stopped", Recorder())
    assert_same(dict(trained.result.model.state_dict()), dict(continued.model.state_dict()))


def test_the_result_is_a_plain_network(trained: Trained, digits_model: nn.Module) -> None:
    assert trained.result.model.state_dict().keys() == digits_model.state_dict().keys()
