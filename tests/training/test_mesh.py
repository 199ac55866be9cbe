"""One learner per process: the weights of one process, on meshes of learners and parts of the minibatch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Experiment
from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted, RequestError
from pipeline.core.ranks import Ranks
from pipeline.data.images import ImageSplit
from pipeline.training.loop import train
from tests.conftest import MakeParams
from tests.running import Recorder, assert_same
from tests.training.ranks import together
from tests.training.test_distributed import TOLERANCE, distance, trained
from tests.training.test_loop import StopAfter
from tests.training.test_methods import two_epochs

CPU = Backend(torch.device("cpu"), bfloat16=False)


def averaged(entry: dict[str, Any]) -> None:
    """Mix the learners' moving averages, hand back after every batch, make BatchNorm's statistics anew."""
    for learner in entry["learners"].values():
        learner["weight_averaging"] = {"decay": 0.5}
    entry["mixture"].update(source="weight_averages", batch_norm="recompute", redistribution="every_batch")


@pytest.mark.parametrize(
    ("count", "experiments"),
    [
        (2, [two_epochs("generalist_d_nt_linf"), two_epochs("generalist_d_nt_linf", averaged)]),
        (3, [two_epochs("generalist_t")]),
        (4, [two_epochs("generalist_d_linf_l2")]),
    ],
    ids=["2 learners", "3 learners", "2 learners x 2 parts"],
)
def test_a_mesh_ends_with_the_weights_of_one_process(
    tiny_split: ImageSplit, tmp_path: Path, count: int, experiments: list[Experiment]
) -> None:
    def work(ranks: Ranks) -> list[dict[str, Any]]:
        return [trained(each, tiny_split, tmp_path / f"mesh-{each.fingerprint}", ranks, True) for each in experiments]

    for experiment, *found in zip(experiments, *together(count, work, tmp_path), strict=True):
        alone = trained(experiment, tiny_split, tmp_path / f"alone-{experiment.fingerprint}")
        first, *others = found
        for other in others:
            assert_same(first["weights"], other["weights"])
            assert first["history"] == other["history"]
        assert distance(first["weights"], alone["weights"]) < TOLERANCE
        for ours, theirs in zip(first["history"], alone["history"], strict=True):
            assert ours.keys() == theirs.keys()
            assert ours["learning_rate/linf"] == theirs["learning_rate/linf"]
            assert ours["loss/linf"] == pytest.approx(theirs["loss/linf"], rel=1e-3)


def test_a_training_continues_on_any_mesh(make_params: MakeParams, tiny_split: ImageSplit, tmp_path: Path) -> None:
    """On two, one learner each; then on two by two; then on one: stopped within an epoch each time."""
    experiment, folder = make_params().experiment("generalist_d_nt_linf", 1), tmp_path / "run"
    whole = trained(experiment, tiny_split, tmp_path / "whole")

    def stopped(ranks: Ranks) -> str:
        with pytest.raises(Interrupted) as caught:
            train(experiment, tiny_split, CPU, folder, Recorder(), StopAfter(2), ranks, learner_parallel=True)
        return str(caught.value)

    for count, expected in ((2, "00000-0000002.pt"), (4, "00001-0000001.pt")):
        (tmp_path / str(count)).mkdir()
        assert expected in together(count, stopped, tmp_path / str(count))[0]
    last = trained(experiment, tiny_split, folder)
    assert distance(last["weights"], whole["weights"]) < TOLERANCE
    for ours, theirs in zip(last["history"], whole["history"], strict=True):
        for name in ("loss/linf", "loss/natural", "train_accuracy/natural"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), "sums of an epoch begun elsewhere"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("at", "learner parallel training needs a method whose learners meet in a mixture of rule moving_average"),
        ("generalist_d_nt_linf", r"3 processes cannot be shared out evenly among 2 learners \(\w+, \w+\); start 2, or"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(
    make_params: MakeParams, tiny_split: ImageSplit, tmp_path: Path, method: str, message: str
) -> None:
    experiment = make_params().experiment(method, 1)
    with pytest.raises(RequestError, match=message):
        train(experiment, tiny_split, CPU, tmp_path, Recorder(), ranks=Ranks(0, 3), learner_parallel=True)
