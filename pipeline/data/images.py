"""Image sets as uint8 tensors, and the fixed split of a prepared data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import DataSettings
from pipeline.core.datasets import DataFacts
from pipeline.core.errors import RequestError
from pipeline.core.files import file_digest, read_kept, require_file
from pipeline.core.streams import stream
from pipeline.provenance.folders import MANIFEST_FILE

IMAGES_FILE = "images.safetensors"
OWN_DIGEST = 16
"""Digits of the digest of one's own images that params.yaml has."""
WAY_OUT = "'python -m stages.prepare' writes it anew."


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, whole in memory: a quarter of what float32 would take.

    images: (n, channels, height, width), uint8. labels: (n,), int64. Both on one device.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same images on `device`."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def subset(self, indices: Tensor) -> ImageSet:
        """A copy of the images at `indices` (int64), in that order."""
        return ImageSet(self.images[indices], self.labels[indices])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images at `indices` as float32 in [0, 1], and their labels."""
        return to_unit_interval(self.images[indices]), self.labels[indices]


def to_unit_interval(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], what attacks and networks take."""
    return images.to(torch.float32).div_(255)


@dataclass(frozen=True)
class ImageSplit:
    """What is trained on, what chooses among epochs, and what is tested on."""

    train: ImageSet
    held_out: ImageSet
    test: ImageSet
    digest: str
    """sha256 over all images and labels of the prepared data set; names the data in tracking."""

    def to(self, device: torch.device | str) -> ImageSplit:
        """The same images on `device`."""
        return ImageSplit(self.train.to(device), self.held_out.to(device), self.test.to(device), self.digest)

    @property
    def counts(self) -> dict[str, int]:
        """The number of images by part."""
        return {"train": len(self.train), "test": len(self.test)}


def load_split(prepared: Path, settings: DataSettings) -> ImageSplit:
    """Read a folder that `pipeline.data.prepare` wrote, and split it.

    Training images are split by `split_positions`. Test images keep the official order, unless only some of them are
    asked for.

    Raises:
        RequestError: the folder is missing, is damaged or holds another data set.
    """
    manifest = _read_manifest(prepared / MANIFEST_FILE, settings)
    train, test = _read_images(prepared / IMAGES_FILE, manifest["sha256"], settings.facts)
    trained_on, held_out = split_positions(len(train), settings)
    if settings.test_images is not None:
        test_order = torch.randperm(len(test), generator=stream(settings.split_seed, "test"))
        test = test.subset(test_order[: settings.test_images])
    return ImageSplit(
        train=train.subset(trained_on),
        held_out=train.subset(held_out),
        test=test,
        digest=manifest["digest"],
    )


def split_positions(images: int, settings: DataSettings) -> tuple[Tensor, Tensor]:
    """Which of `images` prepared training images are trained on, and which are held out.

    The split is one permutation by `split_seed`: held-out images come first, so that `train_images` never changes them.
    `replaced_example` puts a held-out image in a training image's place: at position p the one at p modulo their
    number. It stays held out as well, so that epochs are selected on the same images with and without it.

    Returns:
        Two vectors of int64 positions.

    Raises:
        RequestError: there is no training image at the position that is to be replaced.
    """
    order = torch.randperm(images, generator=stream(settings.split_seed, "split"))
    held_out, trained_on = order[: settings.held_out_images], order[settings.held_out_images :][: settings.train_images]
    position = settings.replaced_example
    if position is None:
        return trained_on, held_out
    if position >= len(trained_on):
        raise RequestError(
            f"data.replaced_example: {position} is not among the {len(trained_on)} training images, which count from 0"
        )
    replaced = trained_on.clone()
    replaced[position] = held_out[position % len(held_out)]
    return replaced, held_out


def is_prepared(prepared: Path, settings: DataSettings) -> bool:
    """Whether a folder holds the images of `settings`, and not those of another data set of one's own."""
    try:
        _read_manifest(prepared / MANIFEST_FILE, settings)
    except RequestError:
        return False
    return True


def _read_manifest(path: Path, settings: DataSettings) -> dict[str, Any]:
    name, own = settings.name, settings.found.digest if settings.found is not None else None
    found = read_kept(path, f"data set '{name}' is not prepared", WAY_OUT)
    if not all(isinstance(found.get(key), str) for key in ("name", "sha256", "digest")):
        raise RequestError(f"{path}: is not of a data set that is whole in memory. {WAY_OUT}")
    if found["name"] != name:
        raise RequestError(f"{path}: is of data set '{found['name']}', params.yaml asks for '{name}'. {WAY_OUT}")
    if own is not None and found["digest"][:OWN_DIGEST] != own:
        raise RequestError(
            f"{path}: is of images with digest {found['digest'][:OWN_DIGEST]}, params.yaml asks for {own}. {WAY_OUT}"
        )
    return found


def _read_images(path: Path, expected: str, facts: DataFacts) -> tuple[ImageSet, ImageSet]:
    """The training and test images at `path`, after a check of the file's sha256 and of what is in it."""
    try:
        digest = file_digest(require_file(path))
    except FileNotFoundError:
        raise RequestError(f"{path}: is missing. {WAY_OUT}") from None
    if digest != expected:
        raise RequestError(f"{path}: is damaged, its sha256 is {digest}, {MANIFEST_FILE} says {expected}. {WAY_OUT}")
    try:
        tensors = load_file(path)
        train, test = (ImageSet(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in ("train", "test"))
    except (SafetensorError, KeyError) as error:
        raise RequestError(f"{path}: is damaged ({type(error).__name__}: {error}). {WAY_OUT}") from None
    for images, count in ((train, facts.train_images), (test, facts.test_images)):
        _check(images, count, facts, path)
    return ImageSet(train.images, train.labels.long()), ImageSet(test.images, test.labels.long())


def _check(found: ImageSet, count: int | None, facts: DataFacts, path: Path) -> None:
    shape = (count, *facts.shape)
    whole = not found.labels.is_floating_point() and not found.labels.is_complex()
    if found.images.shape != shape or found.labels.shape != (count,) or found.images.dtype != torch.uint8 or not whole:
        raise RequestError(
            f"{path}: holds {found.images.dtype} images of shape {tuple(found.images.shape)} and {found.labels.dtype} "
            f"labels of shape {tuple(found.labels.shape)}, expected torch.uint8 images of shape {shape} and {count} "
            f"labels of whole numbers. {WAY_OUT}"
        )
    lowest, highest = int(found.labels.min()), int(found.labels.max())
    if lowest < 0 or highest >= len(facts.classes):
        raise RequestError(
            f"{path}: labels are {lowest} to {highest}, expected 0 to {len(facts.classes) - 1}. {WAY_OUT}"
        )
