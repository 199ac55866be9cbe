"""What of an image a network sees."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms
from torchvision.transforms import functional

from pipeline.core.streams import stream
from pipeline.data.imagefolder import crops
from pipeline.data.imagefolder.crops import FAST_AT, STANDARD, CentreCrop, RandomCrop
from tests.pictures import photos, picture


@settings(deadline=None, max_examples=200)
@given(width=st.integers(1, 600), height=st.integers(1, 600), seed=st.integers(0, 2**31), flip=st.booleans())
def test_a_drawn_part_lies_in_the_image(width: int, height: int, seed: int, flip: bool) -> None:
    box = RandomCrop(flip=flip).draw(width, height, stream(seed, "crop"))
    assert min(box.top, box.left) >= 0 and min(box.height, box.width) > 0
    assert box.top + box.height <= height and box.left + box.width <= width
    assert flip or not box.mirrored


@pytest.mark.parametrize("size", [(500, 375), (256, 900)])
def test_parts_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    reference, image, number = transforms.RandomResizedCrop(224), Image.new("RGB", size), count()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [reference.get_params(image, reference.scale, reference.ratio) for _ in range(2000)]
    ours = [RandomCrop().draw(*size, stream(0, "crop", next(number))) for _ in range(2000)]
    for column in range(4):
        first, second = ([box[column] for box in boxes] for boxes in (theirs, ours))
        assert ks_2samp(first, second).pvalue > 0.001
    assert abs(sum(box.mirrored for box in ours) - 1000) < 120


@pytest.mark.parametrize(("size", "expected"), [((1000, 10), (13, 10)), ((10, 1000), (10, 13)), ((7, 7), (7, 7))])
def test_where_no_draw_fits_the_largest_centre_is_taken(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(crops, "AREA", (1.0, 1.0))
    monkeypatch.setattr(crops, "RATIO", (3 / 4, 4 / 3) if size != (7, 7) else (1.0, 1.0))
    box = RandomCrop().draw(*size, stream(0, "crop"))
    assert (box.width, box.height) == expected
    assert (box.left, box.top) == ((size[0] - box.width) // 2, (size[1] - box.height) // 2)


def test_the_part_is_resized_as_torchvision_does() -> None:
    photo, seen = photos()[0], set()
    for number in range(8):
        crop = RandomCrop(size=64)
        box = crop.draw(photo.width, photo.height, stream(0, "crop", number))
        expected = functional.resized_crop(photo, box.top, box.left, box.height, box.width, [64, 64])
        expected = functional.hflip(expected) if box.mirrored else expected
        assert np.array_equal(crop.apply(photo, stream(0, "crop", number)), np.asarray(expected))
        seen.add(box.mirrored)
    assert seen == {True, False}


@pytest.mark.parametrize("crop", [STANDARD, FAST_AT, CentreCrop(96, 128), CentreCrop(33, None)])
@pytest.mark.parametrize("image", [photos()[1], photos()[1].rotate(90, expand=True), picture(5)])
def test_evaluation_crops_are_torchvisions(crop: CentreCrop, image: Image.Image) -> None:
    steps = [transforms.Resize(crop.resize)] if crop.resize else []
    expected = transforms.Compose([*steps, transforms.CenterCrop(crop.size)])(image)
    pixels = crop.apply(image)
    assert pixels.shape == (crop.size, crop.size, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(expected))
