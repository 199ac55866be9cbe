"""APGD gives the verdicts of its authors' package, from the same start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn

from pipeline.attacks.apgd import APGD
from pipeline.attacks.geometry import norms, per_sample, project
from pipeline.data.images import ImageSplit

BUDGETS: dict[str, float] = {"linf": 0.12, "l2": 0.5, "l1": 0.8}
PACKAGE_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def package_start(norm: str, images: Tensor, epsilon: float) -> Tensor:
    """Where the authors' package begins with this seed."""
    noise = torch.Generator().manual_seed(5)
    if norm == "linf":
        drawn = 2 * torch.rand(images.shape, generator=noise) - 1
        return images + epsilon * drawn / per_sample(norms("linf", drawn))
    drawn = torch.randn(images.shape, generator=noise)
    if norm == "l2":
        return images + epsilon * drawn / per_sample(norms("l2", drawn))
    return project("l1", images + drawn, images, epsilon)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_verdicts_and_losses_are_those_of_the_authors(
    digits_model: nn.Module, tiny_split: ImageSplit, norm: Any, steps: int
) -> None:
    images, labels = tiny_split.test.batch(torch.arange(24))
    epsilon = BUDGETS[norm]
    package = APGDAttack(digits_model, n_iter=steps, norm=PACKAGE_NORMS[norm], eps=epsilon, loss="ce", device="cpu")
    package.init_hyperparam(images)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        best, robust, highest, _ = package.attack_single_run(images, labels)
    climb = APGD(norm=norm, epsilon=epsilon, steps=steps, sparsity=0.2).climb(
        digits_model, images, labels, package_start(norm, images, epsilon)
    )
    assert climb.correct.tolist() == robust.bool().tolist()
    assert 0 < int(climb.correct.sum()) < 24
    torch.testing.assert_close(climb.best_loss, highest, rtol=0.05, atol=0.02)
    assert best.shape == climb.best.shape


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_best_point_is_in_the_ball_and_never_below_the_start(
    digits_model: nn.Module, tiny_split: ImageSplit, norm: Any
) -> None:
    images, labels = tiny_split.test.batch(torch.arange(24))
    climb = APGD(norm=norm, epsilon=BUDGETS[norm], steps=10).climb(digits_model, images, labels)
    with torch.no_grad():
        clean = nn.functional.cross_entropy(digits_model(images), labels, reduction="none")
        at_best = nn.functional.cross_entropy(digits_model(climb.best), labels, reduction="none")
        fooled = digits_model(climb.fooling).argmax(1) != labels
    assert (norms(norm, climb.best - images) <= BUDGETS[norm] + 1e-4).all()
    assert climb.best.min() >= 0 and climb.best.max() <= 1
    assert (climb.best_loss >= clean - 1e-5).all()
    torch.testing.assert_close(at_best, climb.best_loss, rtol=1e-4, atol=1e-5)
    assert torch.equal(fooled, ~climb.correct)
