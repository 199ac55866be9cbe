"""AutoAttack's parts on colour images: the memory layout of convolutions must not reach the package."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from pipeline.config import AutoAttackSettings
from pipeline.evaluation.autoattack import ensemble
from pipeline.models import build_model


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("part", ["apgd_ce", "apgd_t", "fab_t"])
def test_colour_images_in_channels_last(norm: Literal["linf", "l2"], part: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small_cnn", "cifar10").to(memory_format=torch.channels_last).eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        labels = model(images).argmax(1)
    settings = AutoAttackSettings(name="autoattack", norm=norm, epsilon=0.01)
    attacks = ensemble(model, settings, seed=0)
    assert list(attacks) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    adversarial = attacks[part](images, labels)  # type: ignore[index]
    order = float("inf") if norm == "linf" else 2
    # FAB returns its smallest adversarial perturbation only where it is within the radius.
    assert torch.linalg.vector_norm((adversarial - images).flatten(1), ord=order, dim=1).max() <= 0.01 + 1e-5


@pytest.mark.parametrize("part", ["apgd_t", "fab_t"])
def test_targeted_attacks_aim_at_as_many_classes_as_there_are(part: str) -> None:
    """The package aims at nine others, and would look for a tenth logit."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small_cnn", "imagefolder", classes=4).eval()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model(images).argmax(1)
    settings = AutoAttackSettings(name="autoattack", norm="linf", epsilon=0.5)
    adversarial = ensemble(model, settings, seed=0)[part](images, labels)  # type: ignore[index]
    with torch.no_grad():
        assert (model(adversarial).argmax(1) != labels).any()
