"""Which epoch's weights are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.attacks.pgd import PGD
from pipeline.config import MovingAverageSettings, SelectionSettings
from pipeline.core.devices import Backend
from pipeline.data.images import ImageSet, ImageSplit
from pipeline.models import build_model
from pipeline.training.selection import BestEpoch, Validation
from tests.conftest import MakeParams
from tests.running import RunExperiment


def select(settings: SelectionSettings, scores: list[tuple[float, float]]) -> int | None:
    """The epoch that is chosen from (score, natural accuracy) per epoch."""
    best, model = BestEpoch(settings), build_model("small_cnn", "digits")
    for epoch, (score, natural) in enumerate(scores, start=1):
        best.consider(epoch, score, {"held_out/global/natural": natural}, model)
    return best.load_into(model)


def test_the_best_score_wins_and_ties_go_to_the_earlier_epoch() -> None:
    assert select(SelectionSettings(split="held_out"), [(0.1, 1), (0.5, 1), (0.5, 1), (0.4, 1)]) == 2


def test_epochs_below_the_floor_are_not_chosen() -> None:
    settings = SelectionSettings(split="test", natural_floor=0.88)
    assert select(settings, [(0.9, 0.8), (0.5, 0.9), (0.6, 0.87)]) == 2
    assert select(settings, [(0.9, 0.8)]) is None


def test_epochs_before_the_mixture_is_complete_are_not_chosen(
    make_params: MakeParams, run_method: RunExperiment
) -> None:
    """gamma is 1 until epoch 80 of the papers' schedule: until then the global learner averages the first alone."""
    paper = {
        "rule": "moving_average",
        "breakpoints": [0, 40, 80, 120],
        "decay": 0.999,
        "warmup_epochs": 75,
        "communication_interval": 5,
    }
    ratios = {"linf": [1, 1, 1, 0], "natural": [0, 0, 0, 0.5], "l2": [0, 0, 0, 0.5]}
    assert MovingAverageSettings.model_validate({**paper, "mixing_ratios": ratios}).complete_from(120) == 81
    constant = {"linf": [0.5] * 4, "natural": [0.5] * 4, "l2": [0] * 4}
    assert MovingAverageSettings.model_validate({**paper, "mixing_ratios": constant}).complete_from(120) == 1
    model, best = build_model("small_cnn", "digits"), BestEpoch(SelectionSettings(split="held_out"), first_epoch=3)
    for epoch, score in enumerate((0.9, 0.9, 0.4, 0.5), start=1):
        best.consider(epoch, score, {"held_out/global/natural": 1.0}, model)
    assert best.load_into(model) == 4
    assert run_method(make_params(), "generalist_t").result.selected_epoch >= 3


def test_last_keeps_the_last_epoch() -> None:
    assert select(SelectionSettings(split="last"), [(0.9, 1), (0.1, 1)]) is None


def test_the_kept_weights_are_a_copy() -> None:
    best, model = BestEpoch(SelectionSettings(split="held_out")), build_model("small_cnn", "digits")
    best.consider(1, 0.5, {"held_out/global/natural": 0.5}, model)
    kept = model.state_dict()["linear.weight"].clone()
    torch.nn.init.zeros_(model.get_parameter("linear.weight"))
    assert best.load_into(model) == 1
    assert torch.equal(model.state_dict()["linear.weight"], kept)


def test_the_score_is_the_mean_over_the_learners_tasks(make_params: MakeParams, run_method: RunExperiment) -> None:
    trained = run_method(make_params(), "generalist_d_nt_linf")
    key = "held_out/global/"
    scores = [(row[f"{key}natural"] + row[f"{key}pgd_linf"]) / 2 for row in trained.observer.records]
    candidates = scores[2:]
    assert trained.state["best"]["score"] == pytest.approx(max(candidates))
    assert trained.result.selected_epoch == 3 + candidates.index(max(candidates))


WRONG: dict[str | None, list[int]] = {None: [4], "linf": [0, 1, 2], "l2": [2, 3]}
"""Held-out images that a network gets wrong, as they are and under the attack of a norm."""


@pytest.mark.parametrize(("method", "wrong"), [("generalist_t", 4), ("generalist_d_nt_linf", 3), ("at_l2", 2)])
def test_the_worst_case_is_counted_image_by_image_over_the_norms_that_learners_train_in(
    make_params: MakeParams,
    tiny_split: ImageSplit,
    cpu: Backend,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    wrong: int,
) -> None:
    def planted(model: nn.Module, images: ImageSet, attack: PGD | None, *rest: Any, **options: Any) -> torch.Tensor:
        missed, predicted = WRONG[attack.norm if attack else None], images.labels.clone()
        predicted[missed] = (predicted[missed] + 1) % 10
        return predicted

    monkeypatch.setattr("pipeline.training.selection.predictions", planted)
    model = build_model("small_cnn", "digits")
    record = Validation(make_params().experiment(method, 1), tiny_split, cpu).measure(model, [], 1)
    images = len(tiny_split.held_out)
    assert record["held_out/global/worst_case_union"] == 1 - wrong / images
    assert record["held_out/global/pgd_linf"] == 1 - 3 / images


def test_without_attacks_in_training_there_is_no_worst_case(make_params: MakeParams, run_method: RunExperiment) -> None:
    assert not any("worst_case_union" in name for name in run_method(make_params(), "nt").observer.records[0])
