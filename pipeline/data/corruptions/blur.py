"""Blur. Radii and standard deviations are in pixels, whatever the size of the image."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.data.corruptions import filters
from pipeline.data.corruptions.filters import Image, clipped_zoom, gaussian, to_uint8, unit, unit32

DISC_REACH = 8
"""Half the side of the grid that a disc is drawn on; none of the discs is larger."""


def gaussian_blur(image: Image, sigma: float) -> Image:
    """Gaussian blur."""
    return to_uint8(gaussian(unit(image), sigma))


def defocus_blur(image: Image, radius: float, smoothing: float) -> Image:
    """Correlation with a disc of this radius, whose own edge is smoothed by a Gaussian."""
    line = np.arange(-DISC_REACH, DISC_REACH + 1)
    disc = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disc / disc.sum(), ksize=(3, 3), sigmaX=smoothing)
    channels = [cv2.filter2D(channel, -1, kernel) for channel in np.moveaxis(unit(image), 2, 0)]
    return to_uint8(np.stack(channels, axis=2))


def glass_blur(image: Image, generator: np.random.Generator, sigma: float, shift: int, passes: int) -> Image:
    """Blur, then every pixel takes the value of a near one, then blur again.

    The released images come from a loop that was meant to swap pixels; it copies, from neighbours up and to the left
    that it has not reached yet. So one pass is a gather from the image before it. The first `shift` + 1 rows and
    columns stay.
    """
    moved = to_uint8(gaussian(unit(image), sigma))
    rows = np.arange(shift + 1, image.shape[0])[:, None]
    columns = np.arange(shift + 1, image.shape[1])
    for _ in range(passes):
        right, down = generator.integers(-shift, shift, (2, len(rows), len(columns)))
        moved[shift + 1 :, shift + 1 :] = moved[rows + down, columns + right]
    return to_uint8(gaussian(unit(moved), sigma))


def motion_blur(image: Image, generator: np.random.Generator, radius: float, sigma: float) -> Image:
    """Blur along a line, 45 degrees at most from the horizontal."""
    return filters.motion_blur(image, radius, sigma, generator.uniform(-45, 45))


def zoom_blur(image: Image, stop: float) -> Image:
    """The mean of the image and of its zooms by 1, 1.01, 1.02 and so on.

    Rounding decides how many there are (7, 12, 16, 21, 26 at severities 1 to 5) and whether 1.25 is a little more than
    that, so the factors are computed as for the release.
    """
    values = unit32(image)
    factors = np.arange(1, stop, 0.01)
    total = np.zeros_like(values)
    for factor in factors:
        total += clipped_zoom(values, factor)
    return to_uint8((values + total) / (len(factors) + 1))
