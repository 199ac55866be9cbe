"""The expert in corruptions: what it does to images."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.core.streams import stream
from pipeline.objectives import resolve_objective
from pipeline.objectives.corruptions import KINDS, Corruptions, Kind


def corruptions(**options: Any) -> Corruptions:
    objective = resolve_objective({"name": "corruptions", **options}, {})
    assert isinstance(objective, Corruptions)
    return objective


@pytest.fixture
def images() -> Tensor:
    return torch.rand(64, 3, 8, 8, generator=stream(0, "images"))


@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 1000))
def test_images_stay_images(kind: str, seed: int) -> None:
    images = torch.rand(8, 1, 6, 5, generator=stream(seed, "images"))
    corrupted = corruptions(kinds=[kind]).disturbed(images, stream(seed, "noise"))
    assert corrupted.shape == images.shape
    assert 0 <= corrupted.min() <= corrupted.max() <= 1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_changes_images_and_none_without_strength(images: Tensor, kind: str) -> None:
    changed = corruptions(kinds=[kind]).disturbed(images, stream(1, "noise"))
    assert (changed != images).any(dim=(1, 2, 3)).float().mean() > 0.9
    unchanged = corruptions(kinds=[kind], most=0).disturbed(images, stream(1, "noise"))
    torch.testing.assert_close(unchanged, images)


def test_every_image_meets_one_kind(images: Tensor) -> None:
    dark = torch.zeros_like(images)
    changed = corruptions(kinds=["contrast", "gaussian_noise"]).disturbed(dark, stream(2, "noise"))
    noisy = (changed != dark).any(dim=3).any(dim=2).any(dim=1)
    assert 0.25 < noisy.float().mean() < 0.75  # contrast leaves a uniform image as it is


def test_the_same_stream_gives_the_same_corruptions(images: Tensor) -> None:
    first, second = (corruptions().disturbed(images, stream(3, "noise")) for _ in range(2))
    assert torch.equal(first, second)


def test_the_kinds_are_those_that_the_options_name() -> None:
    assert set(KINDS) == set(get_args(Kind))
