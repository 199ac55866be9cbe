"""The 20 perturbation sequences of CIFAR-P: what happens to an image from frame to frame.

Frame 0 is the clean image for noises and for zoom_blur; for brightness and for the movements it is in the middle.
Geometry is that of today's torchvision; the release was made with one of 2018, and which one is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from pipeline.core.errors import RequestError, did_you_mean
from pipeline.data.corruptions import filters
from pipeline.data.corruptions.catalogue import check_image, like, to_rgb
from pipeline.data.corruptions.facts import FRAMES, PERTURBATIONS
from pipeline.data.corruptions.filters import Image, to_uint8, unit, unit32
from pipeline.data.corruptions.weather import snow_layer, snowed, spatter_layer, watered

Frames = Iterator[Image]
MIDDLE = 15
"""The frame of a movement that does not move."""


@dataclass(frozen=True)
class Perturbation:
    """A function that gives the frames of an image, one after the other."""

    frames: Callable[[Image, np.random.Generator], Frames]
    rgb: bool = False
    """It needs three channels: see `Corruption.rgb`."""


def gaussian_noise(image: Image, generator: np.random.Generator, deviation: float) -> Frames:
    """Independent normal noise."""
    yield image
    values = unit32(image)
    for _ in range(1, FRAMES["gaussian_noise"]):
        yield to_uint8(values + deviation * generator.standard_normal(image.shape, dtype=np.float32))


def shot_noise(image: Image, generator: np.random.Generator, photons: float) -> Frames:
    """Independent Poisson noise."""
    yield image
    values = unit(image)
    for _ in range(1, FRAMES["shot_noise"]):
        yield to_uint8(generator.poisson(values * photons) / photons)


def speckle_noise(image: Image, generator: np.random.Generator, deviation: float) -> Frames:
    """Independent normal noise in proportion to the value."""
    yield image
    values = unit(image)
    for _ in range(1, FRAMES["speckle_noise"]):
        yield to_uint8(values + values * generator.normal(scale=deviation, size=image.shape))


def motion_blur(image: Image, generator: np.random.Generator) -> Frames:
    """A blur whose direction turns by 9 degrees a frame."""
    for frame in range(FRAMES["motion_blur"]):
        yield filters.motion_blur(image, 6, 1.8, 9 * (frame - 20))


def zoom_blur(image: Image, generator: np.random.Generator) -> Frames:
    """The mean of ever more zooms."""
    yield image
    total = unit32(image)
    for frame in range(1, FRAMES["zoom_blur"]):
        total = total + unit32(moved(image, scale=1 + 0.004 * frame))
        yield to_uint8(total / (frame + 1))


def snow(image: Image, generator: np.random.Generator) -> Frames:
    """The same flakes, whose wind turns by 4 degrees a frame."""
    flakes = snow_layer(image.shape[:2], generator, 0.05, 0.3, 2, 0.5)
    for frame in range(FRAMES["snow"]):
        yield snowed(image, filters.motion_blur(flakes, 10, 2, 4 * frame - 150), 0.85)


def brightness(image: Image, generator: np.random.Generator) -> Frames:
    """From darker to brighter."""
    hsv = rgb_to_hsv(unit(image))
    for frame in range(FRAMES["brightness"]):
        value = np.clip(hsv[..., 2] + 0.015 * (frame - MIDDLE), 0, 1)
        yield to_uint8(hsv_to_rgb(np.dstack([hsv[..., :2], value])))


def translate(image: Image, generator: np.random.Generator) -> Frames:
    """One pixel to the right a frame."""
    for frame in range(FRAMES["translate"]):
        yield moved(image, right=frame - 7, interpolation=InterpolationMode.NEAREST)


def rotate(image: Image, generator: np.random.Generator) -> Frames:
    """One degree a frame."""
    for frame in range(FRAMES["rotate"]):
        yield moved(image, angle=frame - MIDDLE)


def scale(image: Image, generator: np.random.Generator) -> Frames:
    """From 0.7 times the size to 1.3 times."""
    for frame in range(FRAMES["scale"]):
        yield moved(image, scale=(70 + 2 * frame) / 100)


def shear(image: Image, generator: np.random.Generator) -> Frames:
    """One degree a frame."""
    for frame in range(FRAMES["shear"]):
        yield moved(image, shear=frame - MIDDLE)


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


def tilt(image: Image, generator: np.random.Generator) -> Frames:
    """Turn about both axes of the image, 0.75 degrees a frame, and look at it in perspective.

    The image lies one unit before the plane that it is turned about, so even the middle frame is a little smaller.
    """
    height, width = image.shape[:2]
    for frame in range(FRAMES["tilt"]):
        matrix = tilt_matrix(height, width, np.deg2rad(0.75 * (frame - MIDDLE)))
        yield np.asarray(cv2.warpPerspective(image, matrix, (width, height)), dtype=np.uint8).reshape(image.shape)


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


def gaussian_blur(image: Image, generator: np.random.Generator) -> Frames:
    """Ever more blur."""
    values = unit(image)
    for frame in range(FRAMES["gaussian_blur"]):
        sigma = 0.3 + 0.015 * frame
        yield to_uint8(ndimage.gaussian_filter(values, (sigma, sigma, 0), mode="nearest", truncate=7))


def spatter(image: Image, generator: np.random.Generator) -> Frames:
    """Drops of water that run down, 0.8 pixels a frame."""
    layer = spatter_layer(image.shape[:2], generator, 0.6, 0.265, 1.75, 0.7)
    for _ in range(FRAMES["spatter"]):
        yield watered(image, layer, 0.6)
        above = np.vstack([np.zeros_like(layer[:1]), layer[:-1]])
        layer = 0.2 * layer + 0.8 * above


SEQUENCES: dict[str, Perturbation] = {
    "gaussian_noise": Perturbation(partial(gaussian_noise, deviation=0.02)),
    "gaussian_noise_2": Perturbation(partial(gaussian_noise, deviation=0.04)),
    "gaussian_noise_3": Perturbation(partial(gaussian_noise, deviation=0.06)),
    "shot_noise": Perturbation(partial(shot_noise, photons=700)),
    "shot_noise_2": Perturbation(partial(shot_noise, photons=400)),
    "shot_noise_3": Perturbation(partial(shot_noise, photons=200)),
    "motion_blur": Perturbation(motion_blur),
    "zoom_blur": Perturbation(zoom_blur, rgb=True),
    "snow": Perturbation(snow, rgb=True),
    "brightness": Perturbation(brightness, rgb=True),
    "translate": Perturbation(translate, rgb=True),
    "rotate": Perturbation(rotate, rgb=True),
    "tilt": Perturbation(tilt),
    "scale": Perturbation(scale, rgb=True),
    "speckle_noise": Perturbation(partial(speckle_noise, deviation=0.05)),
    "speckle_noise_2": Perturbation(partial(speckle_noise, deviation=0.07)),
    "speckle_noise_3": Perturbation(partial(speckle_noise, deviation=0.1)),
    "gaussian_blur": Perturbation(gaussian_blur),
    "spatter": Perturbation(spatter, rgb=True),
    "shear": Perturbation(shear, rgb=True),
}


def perturb(name: str, image: Image, generator: np.random.Generator) -> NDArray[np.uint8]:
    """The sequence of one image.

    Args:
        name: One of `PERTURBATIONS`.
        image: As for `corrupt`.
        generator: Of the noises, snow and spatter; the others draw nothing.

    Returns:
        (frames, height, width, channels), uint8; `FRAMES` says how many frames.

    Raises:
        RequestError: the name does not exist, or the image is something else.
    """
    check_image(image)
    if name not in SEQUENCES:
        raise RequestError(f"perturbation '{name}' does not exist: {did_you_mean(name, list(PERTURBATIONS))}")
    perturbation = SEQUENCES[name]
    given = to_rgb(image) if perturbation.rgb else image
    return np.stack([like(frame, image) for frame in perturbation.frames(given, generator)])
