"""CIFAR-10 (Krizhevsky, 2009)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import CIFAR10

from pipeline.data.images import ImageSet
from pipeline.data.sources import Source, image_set


def source(kind: type[CIFAR10] = CIFAR10) -> Source:
    """The batches in Python's format, of CIFAR-10 or of another data set in its form."""

    def read(root: Path) -> tuple[ImageSet, ImageSet]:
        train, test = kind(root, train=True), kind(root, train=False)
        return _images(train), _images(test)

    listed = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    files = {f"{kind.base_folder}/{file}": md5 for file, md5 in listed}
    return Source(read, files, {kind.filename: (kind.url, kind.tgz_md5)})


def _images(loaded: CIFAR10) -> ImageSet:
    return image_set(loaded.data.transpose(0, 3, 1, 2), loaded.targets)
