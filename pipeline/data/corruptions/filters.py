"""What several corruptions are made of. Images are (height, width, channels); layers have no channels."""

from __future__ import annotations

from math import ceil, cos, exp, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.uint8]
"""(height, width, channels) with 1 or 3 channels (RGB), values 0..255."""
Values = NDArray[np.floating[Any]]
"""Values meant for 0..1, of an image or of a layer."""


def unit(image: Image) -> NDArray[np.float64]:
    """0..255 as float64 in [0, 1]."""
    return image / np.float64(255)


def unit32(image: Image) -> NDArray[np.float32]:
    """0..255 as float32 in [0, 1]: some corruptions were released in this precision, and the last bit shows."""
    return image.astype(np.float32) / np.float32(255)


def to_uint8(values: Values) -> Image:
    """Clipped to [0, 1] and scaled to 0..255; fractions are cut off, as in the releases, not rounded."""
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def gaussian(values: Values, sigma: float, reach: float = 4.0) -> Values:
    """Gaussian blur of the two first axes, `sigma` in pixels, up to `reach` of them away, edges repeated."""
    sigmas = (sigma, sigma, *[0.0] * (values.ndim - 2))
    blurred: Values = ndimage.gaussian_filter(values, sigmas, mode="nearest", truncate=reach)
    return blurred


def clipped_zoom(values: Values, factor: float) -> Values:
    """The middle, enlarged by `factor` >= 1 with bilinear interpolation to the old size (corners aligned)."""
    size = values.shape[:2]
    crop = [ceil(side / factor) for side in size]
    tops = [(side - part) // 2 for side, part in zip(size, crop, strict=True)]
    middle = values[tops[0] : tops[0] + crop[0], tops[1] : tops[1] + crop[1]]
    zoomed: Values = ndimage.zoom(middle, (factor, factor, *[1] * (values.ndim - 2)), order=1)
    tops = [(zoomed.shape[axis] - size[axis]) // 2 for axis in (0, 1)]
    return zoomed[tops[0] : tops[0] + size[0], tops[1] : tops[1] + size[1]]


def motion_blur(image: NDArray[np.uint8], radius: float, sigma: float, angle: float) -> NDArray[np.uint8]:
    """A one-sided Gaussian blur along a line: ImageMagick's, whose 16-bit steps are followed to the last bit.

    Args:
        image: (height, width) or (height, width, channels), uint8.
        radius: The line has 2 * ceil(radius) + 1 taps.
        sigma: Standard deviation along the line, in pixels.
        angle: Of the line, in degrees; 90 is down.
    """
    taps = range(2 * ceil(radius) + 1)
    weights = [exp(-(tap**2) / (2 * sigma**2)) for tap in taps]
    scaled = 257.0 * image
    rows, columns = np.arange(image.shape[0]), np.arange(image.shape[1])
    total = np.zeros_like(scaled)
    for tap, weight in zip(taps, weights, strict=True):
        down, right = ceil(tap * sin(radians(angle)) - 0.5), ceil(tap * cos(radians(angle)) - 0.5)
        moved_rows = np.clip(rows + down, 0, len(rows) - 1)
        moved_columns = np.clip(columns + right, 0, len(columns) - 1)
        total += weight / sum(weights) * scaled[moved_rows[:, None], moved_columns]
    return (np.minimum(np.floor(total + 0.5), 65535) // 257).astype(np.uint8)


def plasma(height: int, width: int, decay: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """A cloud in [0, 1] by midpoint displacement on a torus; a greater `decay` makes it smoother.

    It is made in a square whose side is the next power of two, and cut to (height, width).
    """
    side = 1 << (max(height, width, 2) - 1).bit_length()
    cloud = np.zeros((side, side))
    step, wobble = side, 100.0
    while step >= 2:
        half = step // 2
        count = side // step

        def displaced(sums: NDArray[np.float64], wobble: float = wobble, count: int = count) -> NDArray[np.float64]:
            return sums / 4 + wobble * generator.uniform(-wobble, wobble, (count, count))

        corners = cloud[::step, ::step]
        right = np.roll(corners, -1, axis=1)
        below = np.roll(corners, -1, axis=0)
        centres = displaced(corners + right + below + np.roll(right, -1, axis=0))
        cloud[half::step, half::step] = centres
        cloud[::step, half::step] = displaced(corners + right + centres + np.roll(centres, 1, axis=0))
        cloud[half::step, ::step] = displaced(corners + below + centres + np.roll(centres, 1, axis=1))
        step, wobble = half, wobble / decay
    cloud -= cloud.min()
    cloud /= cloud.max()
    return cloud[:height, :width]
