"""Random crops and mirror images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pipeline.config import AugmentationSettings
from pipeline.data.augmentation import augment, draw_placements


def random_images(count: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    # Never 0, so that padding cannot pass for a pixel.
    generator = torch.Generator().manual_seed(count)
    return torch.randint(1, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(0, 6),
    channels=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_image_is_the_drawn_slice_of_its_padded_self(
    count: int, channels: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    images = random_images(count, channels, height, width)
    options = AugmentationSettings(crop_padding=padding, horizontal_flip=flip)
    augmented = augment(images, options, torch.Generator().manual_seed(seed))
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.uint8
    drawn = draw_placements(count, options, torch.Generator().manual_seed(seed))
    padded = functional.pad(images, [padding] * 4)
    for index in range(count):
        top, left = int(drawn.tops[index]), int(drawn.lefts[index])
        expected = padded[index, :, top : top + height, left : left + width]
        assert torch.equal(augmented[index], expected.flip(2) if drawn.flips[index] else expected)


def test_all_offsets_and_both_orientations_occur_equally_often() -> None:
    options = AugmentationSettings(crop_padding=4, horizontal_flip=True)
    drawn = draw_placements(90_000, options, torch.Generator().manual_seed(0))
    for offsets in (drawn.tops, drawn.lefts):
        counts = torch.bincount(offsets)
        assert len(counts) == 9  # 0..2 * crop_padding
        assert (counts - 10_000).abs().max() < 500  # five standard deviations
    assert abs(int(drawn.flips.sum()) - 45_000) < 750


def test_the_three_draws_of_an_image_are_independent() -> None:
    options = AugmentationSettings(crop_padding=4, horizontal_flip=True)
    drawn = draw_placements(10_000, options, torch.Generator().manual_seed(0))
    correlations = torch.corrcoef(torch.stack([drawn.tops, drawn.lefts, drawn.flips]).double())
    assert (correlations - torch.eye(3)).abs().max() < 0.05


def test_a_flip_alone_gives_the_image_or_its_mirror_image() -> None:
    images = random_images(200)
    flipped = augment(images, AugmentationSettings(horizontal_flip=True), torch.Generator().manual_seed(0))
    mirrored = [torch.equal(image, other.flip(2)) for image, other in zip(flipped, images, strict=True)]
    kept = [torch.equal(image, other) for image, other in zip(flipped, images, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert any(mirrored) and any(kept)


def test_a_crop_alone_never_mirrors() -> None:
    drawn = draw_placements(1000, AugmentationSettings(crop_padding=2), torch.Generator().manual_seed(0))
    assert not drawn.flips.any()


def test_the_seed_alone_decides() -> None:
    images = random_images(64)
    options = AugmentationSettings(crop_padding=4, horizontal_flip=True)
    first, again, other = (augment(images, options, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_augmentation_nothing_changes_and_nothing_is_drawn() -> None:
    images = random_images(4)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert augment(images, AugmentationSettings(), generator) is images
    assert torch.equal(generator.get_state(), before)


def test_channels_last_images_give_the_same_pixels() -> None:
    images = random_images(16)
    options = AugmentationSettings(crop_padding=4, horizontal_flip=True)
    plain = augment(images, options, torch.Generator().manual_seed(0))
    strided = augment(images.to(memory_format=torch.channels_last), options, torch.Generator().manual_seed(0))
    assert torch.equal(plain, strided)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_every_image_is_the_drawn_slice() -> None:
    images = random_images(128)
    options = AugmentationSettings(crop_padding=4, horizontal_flip=True)
    augmented = augment(images.cuda(), options, torch.Generator("cuda").manual_seed(0)).cpu()
    drawn = draw_placements(128, options, torch.Generator("cuda").manual_seed(0))
    padded = functional.pad(images, [4] * 4)
    for index in range(128):
        top, left = int(drawn.tops[index]), int(drawn.lefts[index])
        expected = padded[index, :, top : top + 8, left : left + 8]
        assert torch.equal(augmented[index], expected.flip(2) if drawn.flips[index] else expected)
