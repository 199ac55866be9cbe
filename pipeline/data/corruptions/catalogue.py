"""The 19 corruptions at five severities: one table of parameters, one way to call them.

Parameters are those of the CIFAR releases (ImageNet-C's are far stronger). Images of another size keep the ones that
are in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipeline.core.streams import stream_seed
from pipeline.data.corruptions import blur, digital, noise, weather
from pipeline.data.corruptions.facts import DETERMINISTIC
from pipeline.data.corruptions.filters import Image
from pipeline.data.corruptions.jpeg import jpeg_compression
from pipeline.data.corruptions.weather import Spots


@dataclass(frozen=True)
class Corruption:
    """A function of an image (and of a generator, if it is random) and what it is given at severities 1 to 5."""

    function: Callable[..., Image]
    parameters: tuple[tuple[Any, ...], ...]
    rgb: bool = False
    """It needs three channels: a grey-scale image becomes RGB before it, and grey again after it."""


# fmt: off
CATALOGUE: dict[str, Corruption] = {
    "gaussian_noise": Corruption(noise.gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
    "shot_noise": Corruption(noise.shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    "impulse_noise": Corruption(noise.impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    "defocus_blur": Corruption(blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": Corruption(
        blur.glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    ),
    "motion_blur": Corruption(blur.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": Corruption(blur.zoom_blur, ((1.06,), (1.11,), (1.16,), (1.21,), (1.26,))),
    "snow": Corruption(
        weather.snow,
        (
            (Spots(0.1, 0.2, 1, 0.6), 8, 3, 0.95),
            (Spots(0.1, 0.2, 1, 0.5), 10, 4, 0.9),
            (Spots(0.15, 0.3, 1.75, 0.55), 10, 4, 0.9),
            (Spots(0.25, 0.3, 2.25, 0.6), 12, 6, 0.85),
            (Spots(0.3, 0.3, 1.25, 0.65), 14, 12, 0.8),
        ),
        rgb=True,
    ),
    "frost": Corruption(weather.frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)), rgb=True),
    "fog": Corruption(weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": Corruption(weather.brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)), rgb=True),
    "contrast": Corruption(digital.contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    "elastic_transform": Corruption(
        digital.elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": Corruption(digital.pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)), rgb=True),
    "jpeg_compression": Corruption(jpeg_compression, ((80,), (65,), (58,), (50,), (40,)), rgb=True),
    "speckle_noise": Corruption(noise.speckle_noise, ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,))),
    "gaussian_blur": Corruption(blur.gaussian_blur, ((0.4,), (0.6,), (0.7,), (0.8,), (1,))),
    "spatter": Corruption(
        weather.spatter,
        (
            (Spots(0.62, 0.1, 0.7, 0.7), 0.5, "water"),
            (Spots(0.65, 0.1, 0.8, 0.7), 0.5, "water"),
            (Spots(0.65, 0.3, 1, 0.69), 0.5, "water"),
            (Spots(0.65, 0.1, 0.7, 0.69), 0.6, "mud"),
            (Spots(0.65, 0.1, 0.5, 0.68), 0.6, "mud"),
        ),
        rgb=True,
    ),
    "saturate": Corruption(digital.saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)), rgb=True),
}
# fmt: on


def corrupt(name: str, image: Image, severity: int, generator: np.random.Generator) -> Image:
    """One corrupted image, of the same shape, uint8.

    Args:
        name: One of `CORRUPTIONS`.
        image: (height, width, channels), uint8, 1 or 3 channels (RGB), 4 pixels a side or more.
        severity: 1 to 5.
        generator: Of the random ones; the `DETERMINISTIC` ones draw nothing.
    """
    corruption = CATALOGUE[name]
    drawn = () if name in DETERMINISTIC else (generator,)
    given = to_rgb(image) if corruption.rgb else image
    return like(corruption.function(given, *drawn, *corruption.parameters[severity - 1]), image)


def to_rgb(image: Image) -> Image:
    """(height, width, 3): a grey-scale image three times over, an RGB image as it is."""
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def like(made: Image, image: Image) -> Image:
    """`made` with the channels of `image`: its luma where that is grey-scale."""
    if made.shape == image.shape:
        return made
    return np.asarray(cv2.cvtColor(made, cv2.COLOR_RGB2GRAY), dtype=np.uint8)[..., None]


def image_generator(seed: int, *address: str | int) -> np.random.Generator:
    """The generator of one image: by its address alone, so that order, batches and processes never matter."""
    return np.random.default_rng(stream_seed(seed, *address))
