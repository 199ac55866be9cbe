"""The fixed split of prepared folders of images: trained on from disk, judged on from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipeline.config import DataSettings, StoredSize
from pipeline.config.data import LOOK
from pipeline.core.errors import RequestError
from pipeline.core.machine import readers
from pipeline.core.streams import stream
from pipeline.data.imagefolder.crops import CentreCrop
from pipeline.data.imagefolder.loader import StoredImages, Workers, load_images, open_images, open_subset
from pipeline.data.imagefolder.prepare import read_manifest
from pipeline.data.images import WAY_OUT, ImageSet, split_positions

SAME = ("source", "damaged", "subset", "classes")
"""What folders of one tree agree on, whatever size they hold."""


@dataclass(frozen=True)
class FolderSplit:
    """What is trained on, what chooses among epochs, and what is tested on. The latter two are read when needed."""

    train: Mapping[StoredSize, StoredImages]
    """The same images, by the size that they were reduced to."""
    digest: str
    """sha256 over all prepared images, and over which of them are evaluated on."""
    held_out_images: StoredImages
    test_images: StoredImages
    crop: CentreCrop

    @property
    def counts(self) -> dict[str, int]:
        """The number of images by part."""
        return {"train": len(next(iter(self.train.values()))), "test": len(self.test_images)}

    @cached_property
    def held_out(self) -> ImageSet:
        """The held-out training images, cropped like test images."""
        return load_images(self.held_out_images, self.crop, Workers(readers()))

    @cached_property
    def test(self) -> ImageSet:
        """The images that attacks are evaluated on."""
        return load_images(self.test_images, self.crop, Workers(readers()))


def open_folders(prepared: Path, settings: DataSettings, sizes: Sequence[StoredSize]) -> FolderSplit:
    """Open the folders that `stages.prepare` wrote, and split the images as `load_split` does.

    Args:
        prepared: Has a folder for every size.
        sizes: Those that are trained on; held-out images are read at the last one.

    Raises:
        RequestError: a folder is missing, not finished or damaged; folders are of different trees or have other classes
            than the settings; there are too few images.
    """
    assert settings.streaming is not None, "a streamed data set has streaming settings"
    manifests = {size: read_manifest(prepared / str(size)) for size in sizes}
    _check_same(prepared, manifests)
    last = manifests[sizes[-1]]
    _check_contents(prepared, settings, last)
    trained_on, held_out = split_positions(last["images"]["train"], settings)
    test = open_subset(prepared / str(sizes[-1]))
    if settings.test_images is not None:
        test_order = torch.randperm(len(test), generator=stream(settings.split_seed, "test"))
        test = test.subset(test_order[: settings.test_images])
    train = {size: open_images(prepared / str(size), "train") for size in sizes}
    digests = [manifest["digest"] for manifest in manifests.values()]
    return FolderSplit(
        train={size: images.subset(trained_on) for size, images in train.items()},
        digest=digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest(),
        held_out_images=train[sizes[-1]].subset(held_out),
        test_images=test,
        crop=CentreCrop(settings.streaming.test_crop.size, settings.streaming.test_crop.resize),
    )


def _check_same(prepared: Path, manifests: Mapping[StoredSize, dict[str, Any]]) -> None:
    """Refuse sizes that were not made of the same images."""
    (first, expected), *others = manifests.items()
    for size, manifest in others:
        different = [key for key in SAME if manifest[key] != expected[key]]
        if different:
            raise RequestError(
                f"{prepared / str(size)}: was not prepared from the same images as {prepared / str(first)}, they "
                f"differ in: {', '.join(different)}. {WAY_OUT}"
            )


def _check_contents(prepared: Path, settings: DataSettings, manifest: dict[str, Any]) -> None:
    """Refuse another number of classes than the settings say, and fewer images than they take."""
    expected = len(settings.facts.classes)
    wanted = settings.held_out_images + (settings.train_images or 1)
    for what, found, needed, key in (
        ("training images", manifest["images"]["train"], wanted, "held_out_images + data.train_images"),
        ("images to evaluate on", manifest["subset"]["images"], settings.test_images or 0, "test_images"),
    ):
        if found < needed:
            raise RequestError(f"{prepared}: has {found} {what}, data.{key} needs {needed}")
    if settings.found is not None and manifest["classes"] != settings.found.classes:
        raise RequestError(f"{prepared}: has other classes than data.found in params.yaml; {LOOK}")
    if (classes := len(manifest["classes"])) != expected:
        raise RequestError(f"{prepared}: has {classes} classes, data.name '{settings.name}' has {expected}")
