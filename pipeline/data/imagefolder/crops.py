"""From a decoded image of any size to the square that a network takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

ATTEMPTS = 10
"""Draws of area and ratio before the largest fitting centre is taken instead."""
AREA = (0.08, 1.0)
"""Least and greatest share of the image's area."""
RATIO = (3 / 4, 4 / 3)
"""Least and greatest ratio of width to height, uniform in its logarithm."""


class Box(NamedTuple):
    """A drawn part of an image, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


@dataclass(frozen=True)
class RandomCrop:
    """Inception's random resized crop (Szegedy et al., 2015, section 6) and a mirror image with probability 1/2.

    The same distribution as torchvision's RandomResizedCrop and RandomHorizontalFlip, but of numbers that the caller
    addresses: torchvision draws from one global generator, whose state depends on which process did what before.
    """

    size: int = 224
    """Side of the square that the part is resized to."""
    flip: bool = True

    def draw(self, width: int, height: int, generator: torch.Generator) -> Box:
        """A part of an image of `width` x `height`; always draws the same number of numbers."""
        numbers: list[float] = torch.rand(2 * ATTEMPTS + 3, generator=generator, dtype=torch.float64).tolist()
        down, right, coin = numbers[-3:]
        box_width, box_height, is_centred = _fit(width, height, numbers)
        free_rows, free_columns = height - box_height, width - box_width
        return Box(
            top=free_rows // 2 if is_centred else int(down * (free_rows + 1)),
            left=free_columns // 2 if is_centred else int(right * (free_columns + 1)),
            height=box_height,
            width=box_width,
            mirrored=self.flip and coin < 0.5,
        )

    def apply(self, image: Image.Image, generator: torch.Generator) -> NDArray[np.uint8]:
        """The drawn part of an RGB image, resized with antialiasing: (size, size, 3), uint8."""
        box = self.draw(image.width, image.height, generator)
        from torchvision.transforms import functional  # takes seconds, and only images in files need it

        part = functional.resized_crop(image, *box[:4], [self.size, self.size])
        return np.asarray(functional.hflip(part) if box.mirrored else part, dtype=np.uint8)


def _fit(width: int, height: int, numbers: list[float]) -> tuple[int, int, bool]:
    """Width and height of the first draw that fits into the image; else the largest part of a permitted ratio."""
    low, high = (math.log(ratio) for ratio in RATIO)
    for share, place in zip(numbers[:ATTEMPTS], numbers[ATTEMPTS : 2 * ATTEMPTS], strict=True):
        area = width * height * (AREA[0] + share * (AREA[1] - AREA[0]))
        ratio = math.exp(low + place * (high - low))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            return wide, tall, False
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    return min(width, round(height * ratio)), min(height, round(width / ratio)), True


@dataclass(frozen=True)
class CentreCrop:
    """The middle of an image, after its shorter side was resized: how ImageNet models are evaluated."""

    size: int = 224
    resize: int | None = 256
    """Shorter side to resize to, antialiased; None leaves the image as it is, and pads with black where it is small."""

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """The middle of an RGB image: (size, size, 3), uint8."""
        from torchvision.transforms import functional

        resized = image if self.resize is None else functional.resize(image, self.resize)
        return np.asarray(functional.center_crop(resized, [self.size, self.size]), dtype=np.uint8)


STANDARD = CentreCrop(224, 256)
"""RobustBench's 'Res256Crop224', of nearly every ImageNet model."""
FAST_AT = CentreCrop(288, None)
"""RobustBench's 'Crop288', of Fast-AT's released ResNet-50 (Wong et al., 2020)."""
