"""Fast-AT's noise, cut to the box or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attacks.pgd import PGD
from pipeline.objectives import Moment
from pipeline.objectives.fast import Fast

EPSILON = 0.1


class Recording(nn.Module):
    """A linear network that keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4, bias=False)
        nn.init.uniform_(self.linear.weight, -1, 1, generator=torch.Generator().manual_seed(2))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        logits: Tensor = self.linear(images.flatten(1))
        return logits


def perturbed(images: Tensor, clip_noise: bool) -> Tensor:
    attack = PGD(norm="linf", epsilon=EPSILON, step_size=0.05, steps=3)
    model, labels = Recording().train(), torch.arange(len(images)) % 4
    moment = Moment(1, 1, torch.Generator().manual_seed(0))
    losses = Fast(name="fast", attack=attack, clip_noise=clip_noise)(model, images, labels, moment)
    assert len(model.seen) == 2 and losses.logits.shape == (len(images), 4)
    return model.seen[-1]


def test_away_from_the_box_both_are_the_same() -> None:
    images = 0.3 + 0.4 * torch.rand(64, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(perturbed(images, True), perturbed(images, False))


def test_pixels_that_noise_takes_out_of_the_box_have_no_gradient_and_stay() -> None:
    images = torch.zeros(64, 3, 2, 2)
    cut, whole = perturbed(images, True), perturbed(images, False)
    noise = (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1) * EPSILON
    for points in (cut, whole):
        assert points.min() >= 0 and points.max() <= EPSILON + 1e-6
    outside = noise < 0
    assert (whole[outside] == 0).all()
    assert (cut[outside] > 0).float().mean() > 0.2, "cut noise moves on from the box's edge"


def test_settings_that_are_as_before_are_described_as_before() -> None:
    attack: dict[str, Any] = {"norm": "linf", "epsilon": EPSILON, "step_size": 0.1, "steps": 1}
    content = {"name": "fast", "attack": attack}
    plain, other = (Fast.model_validate({**content, "clip_noise": clip}) for clip in (True, False))
    assert "clip_noise" not in plain.model_dump() and other.model_dump()["clip_noise"] is False
