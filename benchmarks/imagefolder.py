"""Preparing and streaming images of ImageNet's size, against torchvision's ImageFolder reading the original files.

The images are parts of scikit-learn's two photos as JPEGs of 500 x 375 pixels, ImageNet's usual size. Both loaders work
in this process on one core, in turn, so that a noisy machine slows both; times are of the processor, not of the clock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.publishing import publish
from benchmarks.timing import Option, read_arguments, spread
from pipeline.core.progress import PreparationDisplay
from pipeline.data.imagefolder.crops import FAST_AT, STANDARD, RandomCrop
from pipeline.data.imagefolder.loader import evaluation_batches, open_images, training_batches
from pipeline.data.imagefolder.prepare import ShardSettings, prepare_imagefolder
from pipeline.data.imagefolder.shards import encode

CLASSES = 10
SIZE = (500, 375)
BATCH = 20
OPTIONS = {
    "training_images": Option(20, 2, "of each of ten classes"),
    "validation_images": Option(6, 2, "of each of ten classes"),
    "rounds": Option(3, 1, "timings of each"),
}
MEBIBYTE = 2**20


def write_tree(root: Path, training_images: int, validation_images: int) -> None:
    """Photos that all differ, so many for each class."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    numbers = np.random.default_rng(0)
    for part, count in (("train", training_images), ("val", validation_images)):
        for label in range(CLASSES):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                photo = photos[number % 2]
                left, top = (int(numbers.integers(side - side * 4 // 5)) for side in photo.size)
                part_of_it = photo.crop((left, top, left + photo.width * 4 // 5, top + photo.height * 4 // 5))
                part_of_it.resize(SIZE).save(folder / f"{number}.jpeg", quality=92)


def reduce(paths: list[Path]) -> float:
    """What `prepare_imagefolder` does with an image, all but the fsync."""
    contents = [path.read_bytes() for path in paths]
    started = time.process_time()
    for content in contents:
        encode(content, 256)
    return 1000 * (time.process_time() - started) / len(contents)


def milliseconds(batches: Iterator[Any]) -> float:
    """Milliseconds of the processor for an image."""
    started, images = time.process_time(), 0
    for batch, _ in batches:
        images += len(batch)
    return 1000 * (time.process_time() - started) / images


def loaders(source: Path, folder: Path) -> dict[str, Callable[[int], Iterator[Any]]]:
    """What gives the batches of an epoch, by name."""
    train, val = open_images(folder, "train"), open_images(folder, "val")
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    plain = DataLoader(ImageFolder(str(source / "train"), transforms.Compose(steps)), BATCH, shuffle=True)

    def stream(size: int) -> Callable[[int], Iterator[Any]]:
        return lambda epoch: training_batches(train, RandomCrop(size), BATCH, 0, epoch)

    return {
        "torchvision, originals, training at 224": lambda epoch: iter(plain),
        "training at 224": stream(224),
        "training at 128": stream(128),
        "training at 288": stream(288),
        "evaluation, Resize 256, CenterCrop 224": lambda epoch: evaluation_batches(val, STANDARD, BATCH),
        "evaluation, CenterCrop 288": lambda epoch: evaluation_batches(val, FAST_AT, BATCH),
    }


def resident() -> float:
    """Mebibytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "imagefolder", OPTIONS, arguments)
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        source, folder = Path(temporary) / "source", Path(temporary) / "shards"
        write_tree(source, given.training_images, given.validation_images)
        with PreparationDisplay("preparing") as display:
            prepare_imagefolder(source, folder, ShardSettings(256), display, workers=1)
        measured, originals = loaders(source, folder), sorted((source / "train").rglob("*.jpeg"))
        reducing: list[float] = []
        times: dict[str, list[float]] = {name: [] for name in measured}
        memory = []
        for epoch in range(given.rounds):
            reducing.append(reduce(originals))
            for name, batches in measured.items():
                times[name].append(milliseconds(batches(epoch)))
            memory.append(resident())
    result = {
        "milliseconds_per_image": {
            name: spread(values) for name, values in {"reducing to 256": reducing, **times}.items()
        },
        "rounds": given.rounds,
        "resident_mebibytes_after_each_round": memory,
    }
    publish(given.output, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
