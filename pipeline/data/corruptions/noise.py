"""Noise, independent for every channel value."""

from __future__ import annotations

import numpy as np

from pipeline.data.corruptions.filters import Image, to_uint8, unit


def gaussian_noise(image: Image, generator: np.random.Generator, deviation: float) -> Image:
    """Normal noise with this standard deviation, as a share of the range."""
    return to_uint8(unit(image) + generator.normal(scale=deviation, size=image.shape))


def shot_noise(image: Image, generator: np.random.Generator, photons: float) -> Image:
    """Poisson noise: white is this many photons."""
    return to_uint8(generator.poisson(unit(image) * photons) / photons)


def impulse_noise(image: Image, generator: np.random.Generator, share: float) -> Image:
    """Salt and pepper: this share of the values becomes 0 or 255, either with the same probability."""
    replaced = generator.random(image.shape) < share
    salt = generator.random(image.shape) < 0.5
    return np.where(replaced, np.where(salt, np.uint8(255), np.uint8(0)), image)


def speckle_noise(image: Image, generator: np.random.Generator, deviation: float) -> Image:
    """Normal noise whose standard deviation is this share of the value itself."""
    values = unit(image)
    return to_uint8(values + values * generator.normal(scale=deviation, size=image.shape))
