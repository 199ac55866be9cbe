"""Real image files: photos and drawings in every kind of JPEG that ImageNet has, and damaged ones."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n02086240")
TRAIN_EACH = 9
VAL_EACH = 5
ODD = {"grey": "L", "cmyk": "CMYK"}
DAMAGED = {
    "train/n01440764/cut.JPEG": "image file is truncated",
    "train/n02086240/empty.JPEG": "the file is empty",
    "val/n01443537/text.JPEG": "is not an image in a known format",
}
"""Reason by path, of what `damage` writes."""


@cache
def photos() -> tuple[Image.Image, ...]:
    """The two photos that scikit-learn brings along, 640 x 427."""
    from sklearn.datasets import load_sample_images

    return tuple(Image.fromarray(image) for image in load_sample_images().images)


def picture(seed: int) -> Image.Image:
    """Part of a photo, 60 to 180 pixels on each side, wide or high."""
    numbers = np.random.default_rng(seed)
    width, height = (int(side) for side in numbers.integers(60, 181, 2))
    photo = photos()[seed % 2]
    left, top = int(numbers.integers(photo.width - width)), int(numbers.integers(photo.height - height))
    return photo.crop((left, top, left + width, top + height))


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def write_tree(root: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """An ImageFolder tree: 9 training and 5 validation images of each class, three unless told otherwise, all whole.

    In the first class are a grey JPEG, a CMYK one, a PNG that calls itself JPEG, and a file that is no image.
    """
    seed = 0
    for part, count in (("train", TRAIN_EACH), ("val", VAL_EACH)):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{name}_{number}.JPEG").write_bytes(encoded(picture(seed), quality=90))
                seed += 1
    first = root / "train" / CLASSES[0]
    for number, mode in enumerate(ODD.values()):
        path = first / f"{CLASSES[0]}_{number}.JPEG"
        path.write_bytes(encoded(picture(number).convert(mode), quality=90))
    (first / f"{CLASSES[0]}_2.JPEG").write_bytes(encoded(picture(2), "PNG"))
    (first / "notes.txt").write_text("not an image")
    (first / ".hidden").write_text("neither")
    return root


def damage(root: Path) -> None:
    """Add the files of DAMAGED to a tree."""
    whole = encoded(picture(1), quality=90)
    contents = (whole[: len(whole) // 2], b"", b"<html>404: not found</html>" * 20)
    for name, content in zip(DAMAGED, contents, strict=True):
        (root / name).write_bytes(content)
