"""The 20 perturbation sequences of CIFAR-P: what happens to an image from frame to frame.

Frame 0 is the clean image for noises and for zoom_blur; for brightness and for the movements it is in the middle.
Geometry is that of today's torchvision; the release was made with one of 2018, and which one is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice

import cv2
import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray
from PIL import Image as Pillow
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from pipeline.data.corruptions.catalogue import like, to_rgb
from pipeline.data.corruptions.facts import FRAMES
from pipeline.data.corruptions.filters import Image, gaussian, motion_blur, to_uint8, unit, unit32
from pipeline.data.corruptions.noise import shot_noise, speckle_noise
from pipeline.data.corruptions.weather import Spots, snow_layer, snowed, spatter_layer, watered

Perturbation = Callable[[Image, np.random.Generator], Iterator[Image]]
"""Gives the frames of an image, one after the other, without an end."""
MIDDLE = 15
"""The frame of a movement that does not move."""
IN_COLOUR = {"zoom_blur", "snow", "brightness", "translate", "rotate", "scale", "spatter", "shear"}
"""They need three channels: a grey-scale image becomes RGB before them, and grey again after them."""


def noisy(add: Callable[..., Image], amount: float) -> Perturbation:
    """The clean image, then independent draws of the same noise."""

    def frames(image: Image, generator: np.random.Generator) -> Iterator[Image]:
        yield image
        while True:
            yield add(image, generator, amount)

    return frames


def single_precision_noise(image: Image, generator: np.random.Generator, deviation: float) -> Image:
    """Normal noise, drawn and added in float32 as for the release."""
    return to_uint8(unit32(image) + deviation * generator.standard_normal(image.shape, dtype=np.float32))


def numbered(frame: Callable[[Image, int], Image]) -> Perturbation:
    """Frames that are functions of their number; nothing is drawn."""
    return lambda image, generator: (frame(image, number) for number in count())


def moved(
    image: Image,
    angle: float = 0,
    right: int = 0,
    scale: float = 1,
    shear: float = 0,
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
) -> Image:
    """An affine map around the middle of an RGB image, black where there was nothing; angles are in degrees."""
    picture = Pillow.fromarray(image)
    return np.asarray(affine(picture, angle, [right, 0], scale, [shear, 0.0], interpolation=interpolation))


def tilted(image: Image, angle: float) -> Image:
    """The image in perspective, after a turn by `angle` degrees about both of its axes.

    It lies one unit before the plane that it is turned about, so even a turn by nothing makes it a little smaller.
    """
    height, width = image.shape[:2]
    matrix = tilt_matrix(height, width, np.deg2rad(angle))
    return np.asarray(cv2.warpPerspective(image, matrix, (width, height)), dtype=np.uint8).reshape(image.shape)


def tilt_matrix(height: int, width: int, angle: float) -> NDArray[np.float64]:
    """The homography (3, 3) of pixels (x, y, 1) for a turn by `angle` radians about the vertical, then the other axis.

    The focal length is the diagonal of the image.
    """
    focal = np.hypot(width, height)
    sine, cosine = np.sin(angle), np.cos(angle)
    lifted = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    vertical = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    horizontal = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    turned = horizontal @ vertical @ lifted
    turned[2] += focal * np.array([0, 0, 1])
    projection = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    homography: NDArray[np.float64] = projection @ turned
    return homography


def zoom_blur(image: Image, generator: np.random.Generator) -> Iterator[Image]:
    """The mean of ever more zooms."""
    yield image
    total = unit32(image)
    for number in count(1):
        total = total + unit32(moved(image, scale=1 + 0.004 * number))
        yield to_uint8(total / (number + 1))


def snow(image: Image, generator: np.random.Generator) -> Iterator[Image]:
    """The same flakes, whose wind turns by 4 degrees a frame."""
    flakes = snow_layer(image.shape[:2], generator, Spots(0.05, 0.3, 2, 0.5))
    return (snowed(image, motion_blur(flakes, 10, 2, 4 * number - 150), 0.85) for number in count())


def brightness(image: Image, generator: np.random.Generator) -> Iterator[Image]:
    """From darker to brighter."""
    hsv = rgb_to_hsv(unit(image))
    for number in count():
        value = np.clip(hsv[..., 2] + 0.015 * (number - MIDDLE), 0, 1)
        yield to_uint8(hsv_to_rgb(np.dstack([hsv[..., :2], value])))


def spatter(image: Image, generator: np.random.Generator) -> Iterator[Image]:
    """Drops of water that run down, 0.8 pixels a frame."""
    layer = spatter_layer(image.shape[:2], generator, Spots(0.6, 0.265, 1.75, 0.7))
    while True:
        yield watered(image, layer, 0.6)
        above = np.vstack([np.zeros_like(layer[:1]), layer[:-1]])
        layer = 0.2 * layer + 0.8 * above


SEQUENCES: dict[str, Perturbation] = {
    "gaussian_noise": noisy(single_precision_noise, 0.02),
    "gaussian_noise_2": noisy(single_precision_noise, 0.04),
    "gaussian_noise_3": noisy(single_precision_noise, 0.06),
    "shot_noise": noisy(shot_noise, 700),
    "shot_noise_2": noisy(shot_noise, 400),
    "shot_noise_3": noisy(shot_noise, 200),
    "motion_blur": numbered(lambda image, number: motion_blur(image, 6, 1.8, 9 * (number - 20))),
    "zoom_blur": zoom_blur,
    "snow": snow,
    "brightness": brightness,
    "translate": numbered(
        lambda image, number: moved(image, right=number - 7, interpolation=InterpolationMode.NEAREST)
    ),
    "rotate": numbered(lambda image, number: moved(image, angle=number - MIDDLE)),
    "tilt": numbered(lambda image, number: tilted(image, 0.75 * (number - MIDDLE))),
    "scale": numbered(lambda image, number: moved(image, scale=(70 + 2 * number) / 100)),
    "speckle_noise": noisy(speckle_noise, 0.05),
    "speckle_noise_2": noisy(speckle_noise, 0.07),
    "speckle_noise_3": noisy(speckle_noise, 0.1),
    "gaussian_blur": numbered(lambda image, number: to_uint8(gaussian(unit(image), 0.3 + 0.015 * number, reach=7.0))),
    "spatter": spatter,
    "shear": numbered(lambda image, number: moved(image, shear=number - MIDDLE)),
}


def perturb(name: str, image: Image, generator: np.random.Generator) -> NDArray[np.uint8]:
    """The sequence of one image: (frames, height, width, channels), uint8; `FRAMES` says how many frames.

    Args:
        name: One of `PERTURBATIONS`.
        image: As for `corrupt`.
        generator: Of the noises, snow and spatter; the others draw nothing.
    """
    given = to_rgb(image) if name in IN_COLOUR else image
    return np.stack([like(frame, image) for frame in islice(SEQUENCES[name](given, generator), FRAMES[name])])
