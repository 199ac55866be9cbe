"""SVHN, the cropped digits (Netzer et al., 2011), without the extra images."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import SVHN

from pipeline.data.images import ImageSet
from pipeline.data.sources import Source, image_set


def source() -> Source:
    """One file for each part."""
    listed = [SVHN.split_list["train"], SVHN.split_list["test"]]
    downloads = {file: (address, md5) for address, file, md5 in listed}
    return Source(_read, {file: md5 for _, file, md5 in listed}, downloads)


def _read(root: Path) -> tuple[ImageSet, ImageSet]:
    train, test = (SVHN(root, split=part) for part in ("train", "test"))
    return image_set(train.data, train.labels), image_set(test.data, test.labels)
