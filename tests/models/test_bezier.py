"""The curve between two networks (methods.md 1.16)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.attacks.pgd import frozen
from pipeline.models import build_model
from pipeline.models.bezier import BezierPath, bernstein


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model("small_cnn", "digits").eval()


def path_between(first: int, second: int, middle: int) -> tuple[BezierPath, nn.Module, nn.Module]:
    start, end = network(first), network(second)
    return BezierPath(network(middle), start, end).eval(), start, end


@given(st.floats(0, 1))
def test_the_weights_of_a_position_are_a_convex_combination(position: float) -> None:
    assert min(bernstein(position)) >= 0
    assert sum(bernstein(position)) == pytest.approx(1)


def test_half_way_the_middle_counts_for_half() -> None:
    assert bernstein(0.5) == (0.25, 0.5, 0.25)


def test_the_path_begins_and_ends_at_its_ends() -> None:
    path, start, end = path_between(0, 1, 2)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for position, network_there in ((0.0, start), (1.0, end)):
        path.position = position
        torch.testing.assert_close(path(images), network_there(images))


@given(st.floats(0, 1))
def test_with_a_middle_that_is_the_mean_the_path_is_straight(position: float) -> None:
    path, start, end = path_between(0, 1, 2)
    with torch.no_grad():
        for ours, first, second in zip(path.parameters(), start.parameters(), end.parameters(), strict=True):
            ours.copy_((first + second) / 2)
    path.position = position
    for weight, first, second in zip(path.weights().values(), start.parameters(), end.parameters(), strict=True):
        torch.testing.assert_close(weight, (1 - position) * first + position * second, atol=1e-6, rtol=1e-4)


@given(st.floats(0, 1))
def test_between_equal_ends_through_themselves_nothing_changes(position: float) -> None:
    path, start, _ = path_between(0, 0, 0)
    path.position = position
    for weight, parameter in zip(path.weights().values(), start.parameters(), strict=True):
        torch.testing.assert_close(weight, parameter)


def test_gradients_reach_the_middle_alone_in_proportion_to_its_weight() -> None:
    path, start, end = path_between(0, 1, 2)
    path.position = 0.2
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.autograd.backward(path(images).square().sum())
    assert all(parameter.grad is None for end_point in (start, end) for parameter in end_point.parameters())
    point = network(0)
    with torch.no_grad():
        for name, parameter in point.named_parameters():
            parameter.copy_(path.weights()[name])
    torch.autograd.backward(point(images).square().sum())
    for ours, theirs in zip(path.parameters(), point.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, 2 * 0.2 * 0.8 * theirs.grad, atol=1e-5, rtol=1e-4)


def test_only_the_middle_is_state_and_frozen_while_crafting() -> None:
    path, start, _ = path_between(0, 1, 2)
    assert len(path.state_dict()) == len(start.state_dict())
    with frozen(path):
        assert not any(weight.requires_grad for weight in path.weights().values())
