"""The digits that scikit-learn brings along, 8 x 8 and grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from pipeline.core.datasets import DATASETS
from pipeline.data.images import ImageSet
from pipeline.data.sources import Source, image_set


def source() -> Source:
    """No files."""
    return Source(_read)


def _read(root: Path) -> tuple[ImageSet, ImageSet]:
    """0..16 scaled to 0..255.

    They have no official split. Here 360 of the 1797 are test images, drawn with seed 0 so that every class has the
    same share of both parts.
    """
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    train, test = train_test_split(
        np.arange(len(images)), test_size=DATASETS["digits"].test_images, stratify=digits.target, random_state=0
    )
    return image_set(images[train], digits.target[train]), image_set(images[test], digits.target[test])
