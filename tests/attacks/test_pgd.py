"""PGD stays in the ball and the box, climbs the loss, and leaves the network as it was."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.attacks.geometry import norms, per_sample
from pipeline.attacks.pgd import PGD, frozen
from pipeline.core.values import Norm
from pipeline.models import build_model

NORMS = get_args(Norm)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance(norm: str, first: Tensor, second: Tensor) -> Tensor:
    order = {"linf": float("inf"), "l2": 2, "l1": 1}[norm]
    lengths: Tensor = torch.linalg.vector_norm((first - second).flatten(1), ord=order, dim=1)
    return lengths


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build_model("small_cnn", "digits")
        made(torch.rand(64, 1, 8, 8))
    return made


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=15, deadline=None)
@given(epsilon=st.floats(0, 2), step=st.floats(0.01, 1), steps=st.integers(0, 4), seed=st.integers(0, 999))
def test_stays_in_the_ball_and_the_box(norm: Any, epsilon: float, step: float, steps: int, seed: int) -> None:
    images, labels = torch.rand(8, 1, 8, 8, generator=generator(seed)), torch.arange(8)
    attack = PGD(norm=norm, epsilon=epsilon, step_size=step, steps=steps)
    perturbed = attack.perturb(build_model("small_cnn", "digits"), images, labels, generator(seed))
    assert perturbed.shape == images.shape and not perturbed.requires_grad
    assert perturbed.min() >= 0 and perturbed.max() <= 1
    assert distance(norm, perturbed, images).max() <= epsilon + 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_budget_nothing_changes(model: nn.Module, norm: Any) -> None:
    images = torch.rand(8, 1, 8, 8, generator=generator())
    attack = PGD(norm=norm, epsilon=0, step_size=0.1, steps=3)
    assert torch.equal(attack.perturb(model, images, torch.arange(8), generator()), images)


def test_on_a_linear_model_linf_reaches_the_corner_from_any_start() -> None:
    """methods.md 1.2 (c): K * step >= 2 * epsilon, pixels away from 0 and 1."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    images, labels = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=generator()), torch.tensor([0, 1] * 3)
    perturbed = PGD(norm="linf", epsilon=0.1, step_size=0.025, steps=8).perturb(linear, images, labels, generator(1))
    weight = linear[1].get_parameter("weight").detach()
    direction = torch.stack([(weight[1 - label] - weight[label]).sign() for label in labels]).view_as(images)
    torch.testing.assert_close(perturbed - images, 0.1 * direction)


def test_on_a_linear_model_l2_reaches_the_farthest_point() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    images, labels = 0.4 + 0.2 * torch.rand(6, 1, 4, 4, generator=generator()), torch.tensor([0, 1] * 3)
    perturbed = PGD(norm="l2", epsilon=0.2, step_size=0.1, steps=60).perturb(linear, images, labels, generator(1))
    weight = linear[1].get_parameter("weight").detach()
    steepest = torch.stack([weight[1 - label] - weight[label] for label in labels]).view_as(images)
    torch.testing.assert_close(
        perturbed - images, 0.2 * steepest / per_sample(norms("l2", steepest)), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("norm", NORMS)
def test_raises_the_loss_more_than_its_random_start(model: nn.Module, norm: Any) -> None:
    images, labels = torch.rand(64, 1, 8, 8, generator=generator()), torch.arange(64) % 10
    losses = []
    for steps in (0, 10):
        perturbed = PGD(norm=norm, epsilon=0.5, step_size=0.125, steps=steps).perturb(
            model, images, labels, generator()
        )
        losses.append(nn.functional.cross_entropy(model.eval()(perturbed), labels).item())
    assert losses[1] > losses[0]


def test_the_random_start_fills_the_ball() -> None:
    images = torch.full((4000, 1, 2, 2), 0.5)
    identity = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    start = PGD(norm="linf", epsilon=0.2, step_size=1, steps=0).perturb(
        identity, images, torch.zeros(4000), generator()
    )
    noise = (start - images) / 0.2
    assert noise.mean().abs() < 0.05 and (noise.std() - 3**-0.5).abs() < 0.02
    start = PGD(norm="l2", epsilon=0.2, step_size=1, steps=0).perturb(identity, images, torch.zeros(4000), generator())
    lengths = distance("l2", start, images) / 0.2
    assert (lengths.mean() - 0.5).abs() < 0.02 and lengths.max() > 0.99


@pytest.mark.parametrize("norm", NORMS)
def test_the_same_generator_gives_the_same_bits(model: nn.Module, norm: Any) -> None:
    images, labels = torch.rand(8, 1, 8, 8, generator=generator()), torch.arange(8)
    attack = PGD(norm=norm, epsilon=0.3, step_size=0.1, steps=2)
    first, second, other = (attack.perturb(model, images, labels, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize("norm", NORMS)
def test_the_network_is_left_as_it_was(model: nn.Module, norm: Any) -> None:
    """Modes, statistics and gradients: crafting in train mode would change BatchNorm (methods.md 1.2, trap)."""
    model.train()
    model.get_submodule("norms.1").eval()
    model.get_parameter("linear.bias").requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    PGD(norm=norm, epsilon=0.3, step_size=0.1, steps=2).perturb(
        model, torch.rand(4, 1, 8, 8), torch.arange(4), generator()
    )
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["linear.bias"]


def test_crafting_computes_no_parameter_gradients(model: nn.Module) -> None:
    seen = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append([parameter.requires_grad for parameter in model.parameters()])
        return nn.functional.cross_entropy(logits, labels)

    attack = PGD(norm="linf", epsilon=0.3, step_size=0.1, steps=3)
    attack.perturb(model, torch.rand(4, 1, 8, 8), torch.arange(4), generator(), loss)
    assert len(seen) == 3 and not any(any(flags) for flags in seen)


def test_modes_come_back_after_an_error(model: nn.Module) -> None:
    model.train()
    with pytest.raises(RuntimeError, match="inside"), frozen(model):
        assert not model.training
        raise RuntimeError("inside")
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
