"""One data set as two files: its images and labels, and a manifest that says what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.config import DataSettings, StreamingSettings
from pipeline.config.data import LOOK, Found
from pipeline.core.errors import RequestError
from pipeline.core.files import atomic_write, file_digest, remove_half_written, write_record
from pipeline.core.machine import usable_cores
from pipeline.core.progress import PreparationDisplay
from pipeline.data.imagefolder.prepare import ShardSettings, describe, prepare_imagefolder
from pipeline.data.imagefolder.tree import list_classes
from pipeline.data.images import IMAGES_FILE, OWN_DIGEST, ImageSet
from pipeline.data.own import read_own
from pipeline.data.own.base import check_names
from pipeline.data.sources import read_official
from pipeline.provenance.folders import MANIFEST_FILE
from pipeline.provenance.own_images import SOURCE, stamp


def prepare(settings: DataSettings, destination: Path) -> dict[str, Any]:
    """Write the whole data set, in its official order, to `destination`; return the manifest.

    The manifest is written last: where something stops between the two files, `load_split` refuses the folder.

    Raises:
        RequestError: official files are missing and cannot be downloaded, or are damaged.
        OSError: a file cannot be written; nothing half-written is left.
    """
    # Before they are read: what changes meanwhile is found the next time.
    source = {SOURCE: stamp(settings.root)} if settings.is_own else {}
    train, test, classes = _read(settings)
    tensors = _tensors(train, test, classes)
    digest = content_digest(tensors)
    if settings.is_own:
        _check_found(settings, _describe(tensors, classes, digest))
    remove_half_written(destination)
    with atomic_write(destination / IMAGES_FILE) as stream:
        stream.write(save(tensors))
    manifest = {
        "name": settings.name,
        "digest": digest,
        "sha256": file_digest(destination / IMAGES_FILE),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "images_per_class": {"train": _counts(train.labels, classes), "test": _counts(test.labels, classes)},
        "versions": _versions(settings),
        **source,
    }
    write_record(destination / MANIFEST_FILE, manifest)
    return manifest


def find(settings: DataSettings) -> Found:
    """What images of one's own are.

    Raises:
        RequestError: they are not there, or no classifier can be trained and tested on them.
    """
    if not settings.is_own:
        check_names(classes := list_classes(settings.root))
        return Found(classes=list(classes))
    train, test, classes = _read(settings)
    tensors = _tensors(train, test, classes)
    return _describe(tensors, classes, content_digest(tensors))


def _read(settings: DataSettings) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    if not settings.is_own:
        return *read_official(settings.name, settings.root), settings.facts.classes
    own = read_own(settings)
    return own.train, own.test, own.classes


def _tensors(train: ImageSet, test: ImageSet, classes: Sequence[str]) -> dict[str, Tensor]:
    kind = torch.uint8 if len(classes) <= 2**8 else torch.int16
    return {
        "train_images": train.images,
        "train_labels": train.labels.to(kind),
        "test_images": test.images,
        "test_labels": test.labels.to(kind),
    }


def _describe(tensors: dict[str, Tensor], classes: Sequence[str], digest: str) -> Found:
    count, channels, height, width = tensors["train_images"].shape
    return Found(
        classes=list(classes),
        shape=(channels, height, width),
        train_images=count,
        test_images=len(tensors["test_images"]),
        digest=digest[:OWN_DIGEST],
    )


def _check_found(settings: DataSettings, now: Found) -> None:
    """Refuse other images than params.yaml says: results would be taken for those of the former."""
    before = settings.found
    if before == now:
        return
    shown = {} if before is None else {key: getattr(before, key) for key in Found.model_fields}
    different = [f"{key} {shown.get(key)} -> {value}" for key, value in now if shown.get(key) != value]
    raise RequestError(
        f"data.root {settings.root}: has other images than data.found in params.yaml says "
        f"({'; '.join(different)}). {LOOK}: experiments on them are new ones. Other versions of numpy, Pillow or "
        "libjpeg may also read other pixels"
    )


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
                # ImageNet's published figures are of images as they are stored.
                ShardSettings(size=None if size == "original" else size, upright=settings.name != "imagenet"),
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


def _counts(labels: Tensor, classes: Sequence[str]) -> dict[str, int]:
    return dict(zip(classes, torch.bincount(labels, minlength=len(classes)).tolist(), strict=True))


def _versions(settings: DataSettings) -> dict[str, str]:
    """The versions of the libraries that had a part in the files' content."""
    source = "scikit-learn" if settings.name == "digits" else "pillow" if settings.is_own else "torchvision"
    return {library: version(library) for library in ("numpy", "safetensors", source, "torch")}
