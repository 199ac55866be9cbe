"""Snow, frost, fog, brightness, and drops on the lens. All but brightness and fog take RGB."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray
from PIL import Image as Pillow

from pipeline.data.corruptions.filters import (
    Image,
    Values,
    clipped_zoom,
    gaussian,
    motion_blur,
    plasma,
    to_uint8,
    unit,
    unit32,
)

TEXTURES = ("frost1", "frost2", "frost2", "frost4", "frost5")
"""The second and the third official texture are the same picture, so that it is drawn twice as often."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255
EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


class Spots(NamedTuple):
    """A layer of flakes or drops: where normal noise, zoomed or blurred by `spread`, is above a threshold."""

    mean: float
    deviation: float
    spread: float
    threshold: float


def brightness(image: Image, added: float) -> Image:
    """Add to the value of hue, saturation, value."""
    hsv = rgb_to_hsv(unit(image))
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return to_uint8(hsv_to_rgb(hsv))


def fog(image: Image, generator: np.random.Generator, amount: float, decay: float) -> Image:
    """Add a cloud, and scale so that the brightest value stays."""
    values = unit(image)
    cloud = plasma(image.shape[0], image.shape[1], decay, generator)[..., None]
    brightest = values.max()
    return to_uint8((values + amount * cloud) * brightest / (brightest + amount))


def frost(image: Image, generator: np.random.Generator, weight: float, texture_weight: float) -> Image:
    """A weighted sum with a random part of a random texture.

    A texture that is too small is enlarged until the image fits into it.
    """
    texture = frost_texture(TEXTURES[generator.integers(len(TEXTURES))])
    height, width = image.shape[:2]
    factor = max((height + 1) / texture.shape[0], (width + 1) / texture.shape[1])
    if factor > 1:
        texture = np.asarray(cv2.resize(texture, None, fx=factor, fy=factor), dtype=np.uint8)
    top = generator.integers(max(texture.shape[0] - height, 1))
    left = generator.integers(max(texture.shape[1] - width, 1))
    part = texture[top : top + height, left : left + width]
    return np.clip(weight * image + texture_weight * part, 0, 255).astype(np.uint8)


@cache
def frost_texture(name: str) -> NDArray[np.uint8]:
    """(height, width, 3) RGB: an official texture at a fifth of its size, as all corruptions of 32 x 32 images use."""
    return np.asarray(Pillow.open(Path(__file__).parent / "textures" / f"{name}.png").convert("RGB"))


def snow(
    image: Image, generator: np.random.Generator, spots: Spots, radius: float, sigma: float, weight: float
) -> Image:
    """Flakes that fall, and are seen twice, the second time turned by 180 degrees, in front of a whitened image."""
    flakes = snow_layer(image.shape[:2], generator, spots)
    fallen = motion_blur(flakes, radius, sigma, generator.uniform(-135, -45))
    return snowed(image, fallen, weight)


def snow_layer(size: tuple[int, ...], generator: np.random.Generator, spots: Spots) -> NDArray[np.uint8]:
    """Flakes that do not move yet, (height, width), 0..255."""
    layer = clipped_zoom(generator.normal(spots.mean, spots.deviation, size), spots.spread)
    return to_uint8(np.where(layer < spots.threshold, 0, layer))


def snowed(image: Image, fallen: NDArray[np.uint8], weight: float) -> Image:
    """The image behind a layer of flakes; `weight` is the share of it that is not whitened."""
    values = unit32(image)
    grey = (values @ LUMA)[..., None]
    whitened = weight * values + (1 - weight) * np.maximum(values, grey * 1.5 + 0.5)
    layer = unit(fallen)[..., None]
    return to_uint8(whitened + layer + np.rot90(layer, 2))


def spatter(image: Image, generator: np.random.Generator, spots: Spots, strength: float, liquid: str) -> Image:
    """Drops of water, or of mud, on the lens; `strength` is the water's opacity or the blur of the mud's edge."""
    layer = spatter_layer(image.shape[:2], generator, spots)
    if liquid == "water":
        return watered(image, layer, strength)
    mask = gaussian((layer > spots.threshold).astype(np.float32), strength)[..., None]
    mask = np.where(mask < 0.8, 0, mask)
    return to_uint8(unit32(image) * (1 - mask) + MUD * mask)


def spatter_layer(size: tuple[int, ...], generator: np.random.Generator, spots: Spots) -> Values:
    """Where the liquid is, (height, width): 0 where it is not."""
    layer = gaussian(generator.normal(spots.mean, spots.deviation, size), spots.spread)
    return np.where(layer < spots.threshold, 0, layer)


def watered(image: Image, layer: Values, strength: float) -> Image:
    """The image behind a layer of water, which shines at its edges.

    Without any water the image stays. The authors' program divides by zero there and releases a black image; in
    sequences that is about one frame in twenty.
    """
    liquid = (layer * 255).astype(np.int64).astype(np.uint8)  # wraps around above 1, as theirs does
    shine = _embossed(liquid) * liquid
    if shine.max() > 0:
        shine = shine / shine.max() * strength
    return to_uint8(unit32(image) + shine[..., None] * WATER)


def _embossed(liquid: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance from the liquid's edges, at most 20, as a relief."""
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    near: Any = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    relief = cv2.filter2D(cv2.equalizeHist(near), cv2.CV_8U, EMBOSS)
    return cv2.blur(relief, (3, 3)).astype(np.float32)
