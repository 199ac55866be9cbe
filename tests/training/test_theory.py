"""Regret, bound, cosines and barriers: their arithmetic, and what a real training measures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted, PipelineError
from pipeline.data.images import ImageSplit
from pipeline.training.loop import train
from pipeline.training.theory import agreement, best_in_hindsight, deviation, error_probability, gradient, regret
from tests.conftest import MakeParams
from tests.running import Recorder, RunExperiment, assert_same, run_experiment, without_times
from tests.training.test_loop import StopAfter

T = "generalist_t"
SQUARES = st.integers(1, 5).flatmap(
    lambda size: st.lists(st.lists(st.floats(0, 1), min_size=size, max_size=size), min_size=size, max_size=size)
)


def measured(raw: dict[str, Any]) -> None:
    raw["training"]["theory"] = {"interval": 2, "images": 16}


@given(losses=SQUARES)
def test_regret_is_what_was_played_above_the_best_column(losses: list[list[float]]) -> None:
    size = len(losses)
    means = [sum(losses[moment][snapshot] for moment in range(size)) / size for snapshot in range(size)]
    assert best_in_hindsight(losses) == pytest.approx(min(means))
    played = sum(losses[moment][moment] for moment in range(size)) / size
    assert regret(losses) == pytest.approx(played - min(means), abs=1e-12)


def test_one_moment_leaves_nothing_to_regret() -> None:
    assert regret([[0.7]]) == 0


def test_the_deviation_of_theorem_1() -> None:
    assert deviation(800) == pytest.approx(2 * math.sqrt(2 * math.log(20) / 800))


class Constant(nn.Module):
    """Gives the same logits for every input."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def test_the_loss_is_the_probability_of_all_other_classes() -> None:
    model = Constant(torch.tensor([0.0, math.log(3)]))
    inputs = torch.zeros(4, 1, 4, 4)
    assert error_probability(model, inputs, torch.tensor([1, 1, 1, 1])) == pytest.approx(0.25)
    assert error_probability(model, inputs, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("second", "product", "cosine"), [([0, 0, 0, 0], 0.5, 1), ([1, 1, 1, 1], -0.5, -1), ([0, 0, 0, 1], 0.25, 1)]
)
def test_gradients_of_minibatches_agree_as_their_labels_do(second: list[int], product: float, cosine: float) -> None:
    """At equal logits of two classes the gradient is 1/2 - (share of labels 0, share of labels 1)."""
    model, inputs = Constant(torch.zeros(2)), torch.zeros(4, 1, 4, 4)
    gradients = [gradient(model, inputs, torch.tensor(labels)) for labels in ([0, 0, 0, 0], second)]
    assert gradients[0].tolist() == [-0.5, 0.5]
    assert agreement(gradients) == pytest.approx((product, cosine))


def test_the_agreement_is_the_mean_over_all_pairs() -> None:
    gradients = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([3.0, 3.0])]
    assert agreement(gradients) == pytest.approx(((0 + 3 + 6) / 3, (0 + 2 * math.sqrt(0.5)) / 3))


def test_a_gradient_leaves_batch_norm_in_its_mode(digits_model: nn.Module) -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    for mode in (True, False):
        before = [buffer.clone() for buffer in digits_model.train(mode).buffers()]
        gradient(digits_model, images, labels)
        assert digits_model.training == mode
        assert all(torch.equal(one, other) for one, other in zip(before, digits_model.buffers(), strict=True))
    digits_model.eval()


def test_everything_is_measured_at_its_time_and_in_its_range(
    make_params: MakeParams, run_method: RunExperiment
) -> None:
    records = run_method(make_params(measured), T).observer.records
    assert [any(key.startswith("theory/") for key in record) for record in records] == [False, True, False, True]
    last = {key.removeprefix("theory/"): value for key, value in records[-1].items() if key.startswith("theory/")}
    tasks = ["linf", "natural", "l2"]
    cosines = ["cosine/linf/natural", "cosine/linf/l2", "cosine/natural/l2"]
    shapes = ["loss/{}", "loss/global/{}", "regret/{}", "regret/global/{}", "bound_slack/{}", "barrier/{}"]
    shapes += [f"minibatch_{kind}/{whose}{{}}" for kind in ("product", "cosine") for whose in ("", "global/")]
    others = ["seconds", "trade_off_regret", "trade_off_bound_slack"]
    assert sorted(last) == sorted([shape.format(task) for shape in shapes for task in tasks] + cosines + others)
    for mean, part in (("trade_off_regret", "regret"), ("trade_off_bound_slack", "bound_slack")):
        assert last[mean] == pytest.approx(sum(last[f"{part}/{task}"] for task in tasks) / 3)
    for task in tasks:
        assert 0 <= last[f"loss/{task}"] <= 1
        assert 0 <= last[f"barrier/{task}"] <= 1
        assert -1 <= last[f"regret/{task}"] <= 1
        assert last[f"bound_slack/{task}"] < 1 + deviation(1)
    cosines += [name for name in last if name.startswith("minibatch_cosine/")]
    assert all(-1 <= last[name] <= 1 for name in cosines)


def test_measuring_changes_no_weight(make_params: MakeParams, run_method: RunExperiment) -> None:
    plain, watched = run_method(make_params(), T), run_method(make_params(measured), T)
    assert_same(plain.mixture, watched.mixture)
    assert_same(plain.learner("l2"), watched.learner("l2"))
    assert make_params().experiment(T, 1).fingerprint == make_params(measured).experiment(T, 1).fingerprint


def test_a_stopped_training_measures_the_same(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    experiment = make_params(measured).experiment(T, 1)
    whole = run_experiment(experiment, tiny_split, cpu, tmp_path / "whole").result.history
    folder = tmp_path / "pieces"
    with pytest.raises(Interrupted):
        train(experiment, tiny_split, cpu, folder, Recorder(), StopAfter(7))
    continued = train(experiment, tiny_split, cpu, folder, Recorder()).history
    assert without_times(continued) == without_times(whole)


def test_a_missing_snapshot_is_named(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    experiment = make_params(measured).experiment(T, 1)
    with pytest.raises(Interrupted):
        train(experiment, tiny_split, cpu, tmp_path, Recorder(), StopAfter(7))
    (tmp_path / "theory" / "00002-linf.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"00002-linf\.safetensors cannot be read .*without training\.theory"):
        train(experiment, tiny_split, cpu, tmp_path, Recorder())


def test_lemma_1_of_generalist_plus_plus_does_not_hold_for_the_cross_entropy() -> None:
    """docs/theory.md: losses of every learner are equal, those of their mean logits are not."""
    first = torch.tensor([[0.0, 10.0, -10.0], [0.0, 10.0, -10.0]])
    second = torch.tensor([[0.0, 10.0, -10.0], [0.0, -10.0, 10.0]])
    label = torch.tensor([0, 0])
    own = [functional.cross_entropy(logits, label, reduction="none") for logits in (first, second)]
    mixed = [functional.cross_entropy(logits.mean(0), label[0]).item() for logits in (first, second)]
    assert torch.equal(own[0], own[1])
    assert mixed == pytest.approx([10.0, math.log(3)], abs=1e-3)
