"""From the bytes of an image file to 8-bit pixels: what Pillow opens is converted rightly, or refused by name.

This module is free of torch: it is what the preparing processes import.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

GREY = ("1", "L")
COLOUR = ("RGB", "RGBX", "P", "CMYK", "YCbCr", "HSV")
"""Pillow's modes that it converts to RGB by itself; those with transparency are laid on white first."""
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
HIGHEST = 2**16 - 1
WIDE_GREY = ("PNG", "PPM")
"""Formats whose grey images of more than 8 bits Pillow may read as mode I, with values from 0 to 65,535."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned; 1 is upright."""


class DamagedImage(Exception):
    """Bytes that are not a whole image, or not one with known colours; the message is the reason, and the same on every
    machine."""


def decode(content: bytes, upright: bool = True) -> Image.Image:
    """The whole image, in mode L where it is grey and in mode RGB otherwise.

    16-bit grey becomes 8-bit (65,535 is 255), transparent pixels are laid on white, palettes and CMYK become RGB.

    Args:
        content: The file.
        upright: Turn the image as its EXIF orientation says, as viewers do; torchvision's ImageFolder, and with it
            every published ImageNet figure, does not.

    Raises:
        DamagedImage: the bytes are empty, are no image, end too early, or are of a form whose colours are not known or
            that has several frames.
    """
    if not content:
        raise DamagedImage("the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_frames(image)
            return to_eight_bits(ImageOps.exif_transpose(image) if upright else image, image.format)
    except (MemoryError, DamagedImage):
        raise
    except UnidentifiedImageError:
        raise DamagedImage("is not an image in a known format") from None
    except Exception as error:  # a damaged file can raise nearly anything in Pillow's many readers
        raise DamagedImage(" ".join(str(error).split()) or type(error).__name__) from None


def is_upright(content: bytes) -> bool:
    """Whether an image that can be decoded says nothing of being turned."""
    with Image.open(io.BytesIO(content)) as image:
        return bool(image.getexif().get(ORIENTATION, 1) == 1)


def _check_frames(image: Image.Image) -> None:
    """Refuse animations and pages. In a MPO file, which phones write, the first image is the photo."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise DamagedImage(f"has {frames} frames; save the one that is meant as a file of its own")


def to_eight_bits(image: Image.Image, form: str | None = None) -> Image.Image:
    """An image in mode L or RGB; `form` is the format of the file that it came from, where that is known.

    Raises:
        DamagedImage: it is of a form whose colours are not known.
    """
    mode = image.mode
    if mode in SIXTEEN_BITS or (mode == "I" and form in WIDE_GREY):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(values * (255 / HIGHEST)).astype(np.uint8))
    if mode in ("I", "F"):
        kind = "32-bit integers" if mode == "I" else "floating-point numbers"
        raise DamagedImage(f"has {kind}, of which nobody knows what is white; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        on_white = Image.new("RGBA", image.size, "white")
        on_white.alpha_composite(image.convert("RGBA"))
        return on_white.convert("L" if mode in (*GREY, "LA") else "RGB")
    if mode not in (*GREY, *COLOUR):
        raise DamagedImage(f"is in mode {mode}, which Pillow does not convert; save it as RGB")
    return image.convert("L" if mode in GREY else "RGB")
