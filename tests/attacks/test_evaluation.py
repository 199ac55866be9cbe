"""MIM, CW and random noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.geometry import norms
from pipeline.attacks.pgd import PGD
from pipeline.core.values import Norm
from pipeline.data.images import ImageSplit
from pipeline.evaluation.attacks.cw import MarginPGD, margin
from pipeline.evaluation.attacks.mim import MomentumPGD
from pipeline.evaluation.attacks.noise import NoiseAttack

EPSILON: dict[Norm, float] = {"linf": 0.08, "l2": 0.3}
STEPS: dict[str, Any] = {"steps": 5, "step_size": 0.02}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.fixture
def batch(tiny_split: ImageSplit) -> tuple[Tensor, Tensor]:
    return tiny_split.test.batch(torch.arange(16))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", [MomentumPGD, MarginPGD, NoiseAttack])
def test_it_stays_in_the_ball_and_the_box_and_repeats(
    digits_model: nn.Module, batch: tuple[Tensor, Tensor], norm: Norm, kind: Any
) -> None:
    options = {"name": "noise", "draws": 3} if kind is NoiseAttack else STEPS
    attack = kind(norm=norm, epsilon=EPSILON[norm], **options)
    found = attack.perturb(digits_model, *batch, generator())
    assert norms(norm, found - batch[0]).max() <= EPSILON[norm] + 1e-5
    assert found.min() >= 0 and found.max() <= 1
    assert torch.equal(found, attack.perturb(digits_model, *batch, generator()))
    assert all(parameter.grad is None or parameter.requires_grad for parameter in digits_model.parameters())


def test_without_memory_momentum_is_pgd(digits_model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    common: dict[str, Any] = {"norm": "linf", "epsilon": 0.08, **STEPS}
    plain = PGD(**common).perturb(digits_model, *batch, generator())
    assert torch.equal(MomentumPGD(**common, decay=0).perturb(digits_model, *batch, generator()), plain)
    assert not torch.equal(MomentumPGD(**common, decay=1).perturb(digits_model, *batch, generator()), plain)


def test_gradients_are_accumulated_in_units_of_their_mean() -> None:
    attack = MomentumPGD(norm="linf", epsilon=0.1, decay=0.5, **STEPS)
    gradient = torch.tensor([[[[1.0, -3.0]]], [[[10.0, 0.0]]]])
    before = torch.ones_like(gradient)
    assert attack.accumulate(gradient, before).flatten().tolist() == pytest.approx([1.0, -1.0, 2.5, 0.5])


def test_the_margin_is_to_the_best_other_class() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, 1.0]])
    assert margin(logits, torch.tensor([0, 2])).tolist() == [1.0, -3.0]


def test_cw_pushes_the_margin_down_to_its_confidence() -> None:
    attack = MarginPGD(norm="linf", epsilon=0.1, confidence=2.0, **STEPS)
    logits = torch.tensor([[3.0, 1.0], [0.0, 9.0]])
    assert attack.loss(logits, torch.tensor([0, 0])).item() == pytest.approx(-(2 + 2 + 0) / 2)


def test_noise_returns_a_draw_that_fools_where_there_is_one() -> None:
    class Threshold(nn.Module):
        """Class 1 where the mean exceeds one half."""

        def forward(self, images: Tensor) -> Tensor:
            above = images.flatten(1).mean(1) - 0.5
            return torch.stack([-above, above], dim=1)

    images = torch.full((8, 1, 2, 2), 0.49)
    labels = torch.zeros(8, dtype=torch.long)
    one = NoiseAttack(name="noise", norm="linf", epsilon=0.1, draws=1).perturb(Threshold(), images, labels, generator())
    many = NoiseAttack(name="noise", norm="linf", epsilon=0.1, draws=20).perturb(
        Threshold(), images, labels, generator()
    )
    assert 0 < int((Threshold()(one).argmax(1) == 1).sum()) < 8
    assert bool((Threshold()(many).argmax(1) == 1).all())
