"""What every source of images says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.data.images import ImageSet


@dataclass(frozen=True)
class Source:
    """One data set. Paths are below the root, digests are MD5 as torchvision lists them."""

    read: Callable[[Path], tuple[ImageSet, ImageSet]]
    """Training and test images, from the root where checked files are."""
    files: dict[str, str] = field(default_factory=dict)
    """Digest by path, of what is read."""
    downloads: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Address and digest by path: of the files themselves, or of the archive that holds them."""

    @property
    def digests(self) -> dict[str, str]:
        """Of files and archives."""
        return self.files | {path: md5 for path, (_, md5) in self.downloads.items()}


def image_set(images: Any, labels: Any) -> ImageSet:
    """From arrays, tensors or lists."""
    return ImageSet(torch.as_tensor(images).contiguous(), torch.as_tensor(labels, dtype=torch.int64))
