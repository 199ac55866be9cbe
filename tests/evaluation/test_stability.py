"""Empirical stability: differences of losses, gradients, and the bound, against what is known by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.pgd import PGD
from pipeline.config import Experiment
from pipeline.data.images import ImageSet, ImageSplit
from pipeline.training.loss_gaps import (
    EVERY_LABEL,
    NATURAL,
    Profile,
    cross_entropies,
    differences,
    gradient_norms,
    profiles,
    stability_bound,
    weight_distance,
    worst_cases,
)
from tests.conftest import MakeParams

D = "generalist_d_nt_linf"
IMAGES = 40
STEEPEST = {NATURAL: 2.0, "pgd20_linf": 3.0}
NOTHING = torch.zeros(0, dtype=torch.float64)
Change = Callable[[dict[str, Any]], Any]

losses = st.floats(0, 50)


def measured(model: nn.Module, split: ImageSplit, attacks: dict[str, PGD | None], seed: int = 0) -> dict[str, Profile]:
    few = ImageSet(split.train.images[:20], split.train.labels[:20])
    return profiles(model, few, split.test, attacks, seed, batch_size=16)


# --- Differences


@given(st.lists(st.tuples(losses, losses), min_size=1))
def test_differences_are_symmetric_and_the_bounded_ones_are_the_smaller(pairs: list[tuple[float, float]]) -> None:
    first, second = (
        Profile(torch.tensor(side, dtype=torch.float64), NOTHING, NOTHING) for side in zip(*pairs, strict=True)
    )
    found = differences(first, second)
    assert found == differences(second, first)
    assert (
        0 <= found["error_probability_mean"] <= found["error_probability_max"] + 1e-12
        and found["error_probability_max"] <= 1
    )
    for part in ("max", "mean"):
        assert found[f"error_probability_{part}"] <= found[f"cross_entropy_{part}"] + 1e-12
    assert set(differences(first, first).values()) == {0.0}


def test_differences_and_gaps_by_hand() -> None:
    first = Profile(-torch.tensor([0.75, 0.25]).log(), -torch.tensor([0.5, 1.0, 0.75]).log(), NOTHING)
    second = Profile(-torch.tensor([0.25, 0.5]).log(), -torch.tensor([0.125]).log(), NOTHING)
    assert differences(first, second) == pytest.approx(
        {
            "error_probability_max": 0.5,
            "error_probability_mean": 0.375,
            "error_probability_gap": 0.25,
            "error_probability_gap_replaced": -0.25,
            "cross_entropy_max": math.log(3),
            "cross_entropy_mean": (math.log(3) + math.log(2)) / 2,
            "cross_entropy_gap": math.log(16 / 3) / 2 - math.log(8 / 3) / 3,
            "cross_entropy_gap_replaced": math.log(8) / 2 - math.log(8),
        }
    )


# --- Networks


def test_a_network_is_as_stable_as_can_be_beside_itself(
    digits_model: nn.Module, tiny_split: ImageSplit, make_params: MakeParams
) -> None:
    attacks = worst_cases(make_params().experiment(D, 1))
    assert list(attacks) == [NATURAL, "pgd20_linf"]
    attack = attacks["pgd20_linf"]
    assert attack is not None and (attack.steps, attack.epsilon) == (20, 40 / 255)
    before = deepcopy(digits_model.state_dict())
    first, second = (measured(digits_model, tiny_split, attacks) for _ in range(2))
    assert list(first) == [NATURAL, "pgd20_linf", EVERY_LABEL]
    for name, profile in first.items():
        found = differences(profile, second[name])
        assert all(value == 0 for key, value in found.items() if "gap" not in key)
    assert weight_distance(digits_model, deepcopy(digits_model)) == (0.0, 0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in digits_model.state_dict().items())
    assert all(parameter.requires_grad for parameter in digits_model.parameters())


def test_every_network_meets_its_own_worst_case(digits_model: nn.Module, tiny_split: ImageSplit) -> None:
    attack = PGD(norm="linf", epsilon=0.1, step_size=0.03, steps=4)
    one, other = (measured(digits_model, tiny_split, {NATURAL: None, "pgd": attack}, seed) for seed in (0, 1))
    assert torch.equal(one[NATURAL].test, other[NATURAL].test)
    assert not torch.equal(one["pgd"].test, other["pgd"].test), "the seed is that of the random start"
    assert one["pgd"].test.mean() > one[NATURAL].test.mean()
    assert one["pgd"].gradients.max() > one[NATURAL].gradients.max()


def test_with_every_label_the_probabilities_of_an_image_sum_to_one(
    digits_model: nn.Module, tiny_split: ImageSplit
) -> None:
    found = measured(digits_model, tiny_split, {NATURAL: None})
    labelled = found[EVERY_LABEL].test.view(len(tiny_split.test), 10)
    torch.testing.assert_close((-labelled).exp().sum(1), torch.ones(len(tiny_split.test), dtype=torch.float64))
    own = labelled.gather(1, tiny_split.test.labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(own, found[NATURAL].test)


def test_gradients_are_those_of_each_image_alone(digits_model: nn.Module, tiny_split: ImageSplit) -> None:
    images, labels = tiny_split.train.batch(torch.arange(19))  # more than are computed at a time

    def alone(image: Tensor, label: Tensor) -> float:
        loss = functional.cross_entropy(digits_model(image.unsqueeze(0)), label.unsqueeze(0))
        gradients = torch.autograd.grad(loss, list(digits_model.parameters()))
        return float(torch.cat([gradient.flatten().double() for gradient in gradients]).norm())

    expected = [alone(image, label) for image, label in zip(images, labels, strict=True)]
    torch.testing.assert_close(
        gradient_norms(digits_model, images, labels), torch.tensor(expected).double(), rtol=1e-4, atol=1e-7
    )
    direct = functional.cross_entropy(digits_model(images), labels, reduction="none").detach()
    torch.testing.assert_close(cross_entropies(digits_model, images, labels).float(), direct)


def test_the_distance_of_weights_is_that_of_all_parameters_together() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        for model, weight, bias in ((first, 2.0, 0.0), (second, 1.0, 3.0)):
            model.weight.fill_(weight)
            model.bias.fill_(bias)
    assert weight_distance(first, second) == pytest.approx((22**0.5, 22**0.5 / 4))


# --- The bound


def constant(rate: float, momentum: float = 0.0) -> Change:
    """Plain gradient descent with a constant learning rate for every learner of every method."""

    def change(raw: dict[str, Any]) -> None:
        for method in raw["methods"].values():
            for learner in method["learners"].values():
                learner["optimizer"] = {
                    "name": "sgd",
                    "learning_rate": rate,
                    "momentum": momentum,
                    "weight_decay": 0.01,
                }
                learner["schedule"] = {"epochs": [0], "values": [1]}

    return change


def bound_of(experiment: Experiment, epochs: int = 4) -> dict[str, float]:
    found = stability_bound(experiment, IMAGES, STEEPEST, epochs)
    assert found is not None
    return {"distance": found.distance, **found.losses}


def test_the_bound_of_one_learner_is_the_theorem(make_params: MakeParams) -> None:
    steps = 4 * 3  # of 40 images in minibatches of 16
    for momentum in (0.0, 0.75):
        experiment = make_params(constant(0.1, momentum)).experiment("at", 1)
        sum_of_alphas = steps * 0.1 / (1 - momentum)
        assert bound_of(experiment) == pytest.approx(
            {
                "distance": 2 * 3 / IMAGES * sum_of_alphas,
                "natural": 2 * 2 * 3 / IMAGES * sum_of_alphas,
                "pgd20_linf": 2 * 3**2 / IMAGES * sum_of_alphas,
            }
        )
        assert bound_of(experiment, epochs=2)["distance"] == pytest.approx(bound_of(experiment)["distance"] / 2)


def test_the_bound_follows_the_schedule_of_the_learning_rate(make_params: MakeParams) -> None:
    def change(raw: dict[str, Any]) -> None:
        constant(0.1)(raw)
        raw["methods"]["nt"]["learners"]["natural"]["schedule"] = {"epochs": [0, 1, 2], "values": [1, 1, 0]}

    assert bound_of(make_params(change).experiment("nt", 1))["natural"] == pytest.approx(2 * 2**2 / IMAGES * 3 * 0.1)


def test_the_bound_of_a_mixture_mixes_averages_and_hands_back(make_params: MakeParams) -> None:
    """The recursion once more, by hand: redistribution after epochs 2 and 4, gamma 1, 1, 0.5, 0 after each."""
    experiment = make_params(constant(0.1)).experiment(D, 1)
    apart, result = {"linf": 0.0, "natural": 0.0}, 0.0
    for epoch, gamma in enumerate((1, 1, 0.5, 0), start=1):
        for _ in range(3):
            apart["linf"] += 2 * 0.1 * 3 / IMAGES
            apart["natural"] += 2 * 0.1 * 2 / IMAGES
            result = 0.95 * result + 0.05 * (gamma * apart["linf"] + (1 - gamma) * apart["natural"])
        if epoch % 2 == 0:
            apart = dict.fromkeys(apart, result)
    found = bound_of(experiment)
    assert found == pytest.approx({"distance": result, "natural": 2 * result, "pgd20_linf": 3 * result})
    assert found["distance"] == pytest.approx(0.0247905128515625)


def test_without_memory_and_copies_a_mixture_of_one_is_that_learner(make_params: MakeParams) -> None:
    def change(raw: dict[str, Any]) -> None:
        constant(0.1)(raw)
        ratios = {"linf": [1, 1, 1, 1], "natural": [0, 0, 0, 0]}
        raw["methods"][D]["mixture"] |= {"decay": 0.0, "communication_interval": 1000, "mixing_ratios": ratios}

    params = make_params(change)
    assert bound_of(params.experiment(D, 1)) == pytest.approx(bound_of(params.experiment("at", 1)))


def test_the_average_of_one_learner_lags_behind(make_params: MakeParams) -> None:
    def change(raw: dict[str, Any]) -> None:
        constant(0.1)(raw)
        raw["methods"]["nt"]["learners"]["natural"]["weight_averaging"] = {"decay": 0.5}

    apart = result = 0.0
    for _ in range(12):
        apart += 2 * 0.1 * 2 / IMAGES
        result = 0.5 * result + 0.5 * apart
    assert bound_of(make_params(change).experiment("nt", 1))["distance"] == pytest.approx(result)


def test_there_is_no_bound_for_other_optimizers_and_mixtures(make_params: MakeParams) -> None:
    def adam(raw: dict[str, Any]) -> None:
        raw["methods"][D]["learners"]["natural"]["optimizer"] = {"name": "adam", "learning_rate": 0.001}

    def projection(raw: dict[str, Any]) -> None:
        raw["methods"][D]["mixture"] = {"rule": "gradient_projection", "natural": "natural", "robust": "linf"}

    def tuned(raw: dict[str, Any]) -> None:
        raw["methods"][D]["mixture"]["ratios"] = "tuned"

    for change in (adam, projection, tuned):
        assert stability_bound(make_params(change).experiment(D, 1), IMAGES, STEEPEST, 4) is None
