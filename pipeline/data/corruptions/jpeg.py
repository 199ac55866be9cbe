"""JPEG compression, whose result depends on the codec: the official files come from IJG's libjpeg 9a to 9d.

Those versions scale chroma by the cosine transform, which libjpeg-turbo, the codec of Pillow's wheels, does not: about
one level of difference per value, 0.1 dB. Where the package `jpeglib` is installed, its libjpeg 9c is used.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL
from PIL import Image as Pillow
from PIL import features

from pipeline.data.corruptions.filters import Image

MEMORY = Path("/dev/shm")
"""A disk in memory where there is one: `jpeglib` works on files."""


@cache
def codec() -> str:
    """The codec that `jpeg_compression` uses, for records: its name, its version, and what brought it."""
    if find_spec("jpeglib") is not None:
        import jpeglib

        return f"libjpeg 9c (jpeglib {jpeglib.__version__})"
    if features.check_feature("libjpeg_turbo"):
        return f"libjpeg-turbo {features.version('libjpeg_turbo')} (Pillow {PIL.__version__})"
    return f"libjpeg {features.version('jpg')} (Pillow {PIL.__version__})"


def jpeg_compression(image: Image, quality: int) -> Image:
    """Compress with this quality (chroma at half the resolution) and decompress. Takes RGB."""
    return _by_jpeglib(image, quality) if "jpeglib" in codec() else _by_pillow(image, quality)


def _by_pillow(image: Image, quality: int) -> Image:
    stream = BytesIO()
    Pillow.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Pillow.open(stream))


def _by_jpeglib(image: Image, quality: int) -> Image:
    import jpeglib

    with jpeglib.version("9c"), TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        path = str(Path(folder) / "image.jpeg")
        compressed: Any = jpeglib.from_spatial(np.ascontiguousarray(image))
        compressed.samp_factor = "4:2:0"
        compressed.write_spatial(path, qt=quality)
        return np.array(jpeglib.read_spatial(path).spatial, dtype=np.uint8)
