"""Images of ImageNet's size, from files."""

from __future__ import annotations

import os
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

from benchmarks.frame import benchmark, spread
from pipeline.core.progress import PreparationDisplay
from pipeline.data.imagefolder.crops import FAST_AT, STANDARD, RandomCrop
from pipeline.data.imagefolder.loader import evaluation_batches, open_images, training_batches
from pipeline.data.imagefolder.prepare import ShardSettings, prepare_imagefolder
from pipeline.data.imagefolder.shards import encode

CLASSES = 10
SIZE = (500, 375)
BATCH = 20


@benchmark(on_device=False, training_images=2, validation_images=2, rounds=1)
def imagefolder(training_images: int = 20, validation_images: int = 6, rounds: int = 3) -> dict[str, Any]:
    """Preparing and streaming images of ImageNet's size, against torchvision's ImageFolder reading the original files.

    The images are parts of scikit-learn's two photos as JPEGs of 500 x 375 pixels, ImageNet's usual size. Both loaders
    work in this process on one core, in turn, so that a noisy machine slows both; times are of the processor, not of
    the clock.
    """
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        source, folder = Path(temporary) / "source", Path(temporary) / "shards"
        _write_tree(source, {"train": training_images, "val": validation_images})
        with PreparationDisplay("preparing") as display:
            prepare_imagefolder(source, folder, ShardSettings(256), display, workers=1)
        measured = _loaders(source, folder)
        times: dict[str, list[float]] = {name: [] for name in measured}
        memory = []
        for epoch in range(rounds):
            for name, batches in measured.items():
                times[name].append(_milliseconds(batches(epoch)))
            memory.append(_resident())
    return {
        "milliseconds_per_image": {name: spread(values) for name, values in times.items()},
        "resident_mebibytes_after_each_round": memory,
    }


def _write_tree(root: Path, counts: dict[str, int]) -> None:
    """Photos that all differ, so many for each class."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    numbers = np.random.default_rng(0)
    for part, count in counts.items():
        for label in range(CLASSES):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                photo = photos[number % 2]
                left, top = (int(numbers.integers(side - side * 4 // 5)) for side in photo.size)
                part_of_it = photo.crop((left, top, left + photo.width * 4 // 5, top + photo.height * 4 // 5))
                part_of_it.resize(SIZE).save(folder / f"{number}.jpeg", quality=92)


def _loaders(source: Path, folder: Path) -> dict[str, Callable[[int], Iterator[Any]]]:
    """What gives the batches of an epoch, by name."""
    originals = sorted((source / "train").rglob("*.jpeg"))
    train, val = open_images(folder, "train"), open_images(folder, "val")
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    plain = DataLoader(ImageFolder(str(source / "train"), transforms.Compose(steps)), BATCH, shuffle=True)

    def stream(size: int) -> Callable[[int], Iterator[Any]]:
        return lambda epoch: training_batches(train, RandomCrop(size), BATCH, 0, epoch)

    return {
        # All that `prepare_imagefolder` does with an image but the fsync.
        "reducing to 256": lambda epoch: (([encode(path.read_bytes(), 256)], None) for path in originals),
        "torchvision, originals, training at 224": lambda epoch: iter(plain),
        "training at 224": stream(224),
        "training at 128": stream(128),
        "training at 288": stream(288),
        "evaluation, Resize 256, CenterCrop 224": lambda epoch: evaluation_batches(val, STANDARD, BATCH),
        "evaluation, CenterCrop 288": lambda epoch: evaluation_batches(val, FAST_AT, BATCH),
    }


def _milliseconds(batches: Iterator[Any]) -> float:
    """Milliseconds of the processor for an image."""
    started, images = time.process_time(), 0
    for batch, _ in batches:
        images += len(batch)
    return 1000 * (time.process_time() - started) / images


def _resident() -> float:
    """Mebibytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
