"""Small data sets of one's own: folders, arrays and a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, Subset, random_split
from torchvision.datasets import FakeData

CLASSES = ("cat", "dog & co", "äsche_2")


def pixels(label: int, number: int, height: int = 64, width: int = 64, channels: int = 3) -> NDArray[np.uint8]:
    """Noise that is brighter in a place that the class has for its own."""
    noise = np.random.default_rng([label, number]).integers(0, 90, (height, width, channels), dtype=np.uint8)
    noise[label * height // 4 : (label + 1) * height // 4] += 150
    return noise if channels == 3 else noise[:, :, 0]


def write_folders(
    root: Path, classes: tuple[str, ...] = CLASSES, height: int = 64, width: int = 64, **parts: int
) -> Path:
    """A tree with so many images of each class in each part; `all` is no part, but the root itself."""
    for part, count in (parts or {"train": 12, "test": 4}).items():
        for label, name in enumerate(classes):
            folder = root / name if part == "all" else root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(pixels(label, number + 100 * (part == "test"), height, width))
                image.save(folder / f"{number:03d}.png")
    return root


def grey_arrays(classes: int = 2, train: int = 18, test: int = 6, height: int = 12, width: int = 20) -> dict[str, Any]:
    """Oblong grey images and their labels, so many of each class, in the documented form."""
    made: dict[str, Any] = {}
    for part, count, first in (("train", train, 0), ("test", test, 500)):
        numbered = [(label, first + number) for number in range(count) for label in range(classes)]
        made[f"{part}_images"] = np.stack([pixels(*one, height, width, 1) for one in numbered])
        made[f"{part}_labels"] = np.array([label for label, _ in numbered])
    return made


def randomly_split(root: Path) -> list[Subset[Any]]:
    """What docs/own_data.md shows, with other images."""
    whole = FakeData(80, (3, 16, 16), 4)
    whole.classes = list("abcd")
    return random_split(whole, [0.8, 0.2], generator=torch.Generator().manual_seed(0))


def failing(root: Path) -> Dataset[Any]:
    """Images of which one cannot be read."""

    class Broken(FakeData):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            if index == 3:
                raise TypeError("a file of the third kind")
            return super().__getitem__(index)

    return Broken(20, (3, 16, 16), 4)


def fake_data(root: Path) -> tuple[Dataset[Any], Dataset[Any]]:
    """torchvision's random images of four classes; the root is not looked at."""
    return FakeData(60, (3, 16, 16), 4), FakeData(24, (3, 16, 16), 4, random_offset=1000)
