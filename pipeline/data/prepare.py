"""One data set as two files: its images and labels, and a manifest that says what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.config import DataSettings, StreamingSettings
from pipeline.core.files import atomic_write, file_digest, remove_half_written, write_record
from pipeline.core.machine import usable_cores
from pipeline.core.progress import PreparationDisplay
from pipeline.data.imagefolder.prepare import ShardSettings, describe, prepare_imagefolder
from pipeline.data.images import IMAGES_FILE, MANIFEST_FILE
from pipeline.data.sources import read_official


def prepare(settings: DataSettings, destination: Path) -> dict[str, Any]:
    """Write the whole data set, in its official order, to `destination`; return the manifest.

    The manifest is written last: where something stops between the two files, `load_split` refuses the folder.

    Raises:
        RequestError: official files are missing and cannot be downloaded, or are damaged.
        OSError: a file cannot be written; nothing half-written is left.
    """
    train, test = read_official(settings.name, settings.root)
    tensors = {
        "train_images": train.images,
        "train_labels": train.labels.to(torch.uint8),
        "test_images": test.images,
        "test_labels": test.labels.to(torch.uint8),
    }
    remove_half_written(destination)
    with atomic_write(destination / IMAGES_FILE) as stream:
        stream.write(save(tensors))
    classes = settings.facts.classes
    manifest = {
        "name": settings.name,
        "digest": content_digest(tensors),
        "sha256": file_digest(destination / IMAGES_FILE),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "images_per_class": {"train": _counts(train.labels, classes), "test": _counts(test.labels, classes)},
        "versions": _versions(settings.name),
    }
    write_record(destination / MANIFEST_FILE, manifest)
    return manifest


def prepare_streamed(
    settings: DataSettings,
    streaming: StreamingSettings,
    destination: Path,
    should_stop: Callable[[], str | None],
) -> None:
    """Store the folders of images at `settings.root` as shards, in a folder of `destination` for every stored size.

    Raises:
        See `prepare_imagefolder`.
    """
    for size in dict.fromkeys([streaming.stored_size, *streaming.other_stored_sizes]):
        folder = destination / str(size)
        with PreparationDisplay(f"preparing {folder}") as display:
            manifest = prepare_imagefolder(
                settings.root,
                folder,
                ShardSettings(size=None if size == "original" else size),
                display,
                workers=usable_cores(),
                subset_list=streaming.subset_list,
                allow_damaged=streaming.allow_damaged,
                should_stop=should_stop,
            )
        print(describe(manifest, folder), flush=True)


def content_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes and contents: unlike the file's, it does not depend on safetensors' layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _counts(labels: Tensor, classes: tuple[str, ...]) -> dict[str, int]:
    return dict(zip(classes, torch.bincount(labels, minlength=len(classes)).tolist(), strict=True))


def _versions(name: str) -> dict[str, str]:
    """The versions of the libraries that had a part in the files' content."""
    source = "scikit-learn" if name == "digits" else "torchvision"
    return {library: version(library) for library in ("numpy", "safetensors", source, "torch")}
