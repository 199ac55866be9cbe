"""Contrast, saturation, distortion, and what cameras and codecs do."""

from __future__ import annotations

import cv2
import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

from pipeline.data.corruptions.filters import Image, to_uint8, unit, unit32


def contrast(image: Image, factor: float) -> Image:
    """Shrink the distance to the mean of each channel."""
    values = unit(image)
    means = values.mean(axis=(0, 1), keepdims=True)
    return to_uint8((values - means) * factor + means)


def saturate(image: Image, factor: float, added: float) -> Image:
    """Change the saturation of hue, saturation, value."""
    hsv = rgb_to_hsv(unit(image))
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + added, 0, 1)
    return to_uint8(hsv_to_rgb(hsv))


def pixelate(image: Image, share: float) -> Image:
    """Down to this share of the size, and back, by averages of boxes. Takes RGB."""
    picture = Pillow.fromarray(image)
    width, height = picture.size
    smaller = (max(int(width * share), 1), max(int(height * share), 1))
    small = picture.resize(smaller, Pillow.Resampling.BOX)
    return np.asarray(small.resize((width, height), Pillow.Resampling.BOX))


def elastic_transform(
    image: Image, generator: np.random.Generator, amplitude: float, smoothness: float, jitter: float
) -> Image:
    """A random affine map, then random displacements.

    All three parameters are shares of the shorter side: how far displacements go, the standard deviation of the
    Gaussian that smoothes them, how far the corners of a triangle move.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    bent = _affine(unit32(image), side // 3, jitter * side, generator)
    across, down = (
        amplitude
        * side
        * ndimage.gaussian_filter(
            generator.uniform(-1, 1, (height, width)), smoothness * side, mode="reflect", truncate=3
        )
        for _ in range(2)
    )
    rows, columns = np.mgrid[:height, :width]
    places = (rows + down.astype(np.float32), columns + across.astype(np.float32))
    channels = [
        ndimage.map_coordinates(channel, places, order=1, mode="reflect") for channel in np.moveaxis(bent, 2, 0)
    ]
    return to_uint8(np.stack(channels, axis=2))


def _affine(
    values: NDArray[np.float32], reach: int, jitter: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Move the corners of a triangle around the middle by at most `jitter` pixels, and everything with them."""
    height, width = values.shape[:2]
    middle = np.array([width // 2, height // 2])
    corners = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    targets = corners + generator.uniform(-jitter, jitter, (3, 2))
    matrix = cv2.getAffineTransform(corners.astype(np.float32), targets.astype(np.float32))
    moved = cv2.warpAffine(values, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return moved.reshape(values.shape).astype(np.float32)
