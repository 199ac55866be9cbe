"""Norms, directions and projections in three norms."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from pipeline.attacks.geometry import norms, project, sparse_sign, steepest_direction
from pipeline.core.values import Norm

NORMS = get_args(Norm)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 9999), epsilon=st.floats(0.01, 3))
def test_projection_lands_in_ball_and_box_and_keeps_what_is_inside(norm: Any, seed: int, epsilon: float) -> None:
    images = torch.rand(3, 1, 4, 4, generator=generator(seed))
    far = images + torch.randn(3, 1, 4, 4, generator=generator(seed + 1))
    once = project(norm, far, images, epsilon)
    assert (norms(norm, once - images) <= epsilon + 1e-4).all()
    assert once.min() >= 0 and once.max() <= 1
    torch.testing.assert_close(project(norm, once, images, epsilon), once, atol=1e-5, rtol=1e-5)
    assert torch.equal(project(norm, images, images, epsilon), images)


@pytest.mark.parametrize("seed", range(4))
def test_the_l1_projection_is_the_nearest_point_of_ball_and_box(seed: int) -> None:
    """Against a general-purpose solver, on split variables so that the constraint is smooth."""
    image = torch.rand(1, 1, 1, 5, generator=generator(seed))
    far = image + torch.randn(1, 1, 1, 5, generator=generator(seed + 50))
    found = project("l1", far, image, 0.7)
    start, goal = image.flatten().double().numpy(), (far - image).flatten().double().numpy()

    def distance(split: Any) -> float:
        return float((((split[:5] - split[5:]) - goal) ** 2).sum())

    bounds = [(0, 1 - value) for value in start] + [(0, value) for value in start]
    constraint = {"type": "ineq", "fun": lambda split: 0.7 - split.sum()}
    solved = minimize(distance, [0.0] * 10, bounds=bounds, constraints=[constraint], method="SLSQP", tol=1e-12)
    expected = torch.tensor(solved.x[:5] - solved.x[5:]).float()
    torch.testing.assert_close((found - image).flatten(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_direction_has_length_one_and_goes_uphill(norm: Any) -> None:
    gradient = torch.randn(6, 3, 5, 5, generator=generator())
    direction = steepest_direction(norm, gradient)
    torch.testing.assert_close(norms(norm, direction), torch.ones(6))
    assert ((direction * gradient).flatten(1).sum(1) > 0).all()
    assert torch.equal(steepest_direction(norm, torch.zeros(2, 1, 2, 2)), torch.zeros(2, 1, 2, 2))


def test_a_sparse_sign_moves_as_many_coordinates_as_asked() -> None:
    gradient = torch.randn(3, 1, 4, 4, generator=generator())
    moved = sparse_sign(gradient, torch.tensor([1, 5, 16]))
    assert (moved != 0).flatten(1).sum(1).tolist() == [1, 5, 16]
    largest = gradient[0].abs().argmax()
    assert moved[0].flatten()[largest] == gradient[0].flatten()[largest].sign()
