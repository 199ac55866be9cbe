"""Official data sets, one module each, found by the name of the data set: its `source()` says what there is to read.

Files are checked against their MD5, downloaded where they are missing, and read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pipeline.core.errors import RequestError
from pipeline.core.files import file_digest, require_file
from pipeline.data.download import DownloadFailed, fetch, unpack
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
        """Digest by path, of files and archives."""
        return self.files | {path: md5 for path, (_, md5) in self.downloads.items()}


def image_set(images: Any, labels: Any) -> ImageSet:
    """From arrays, tensors or lists."""
    return ImageSet(torch.as_tensor(images).contiguous(), torch.as_tensor(labels, dtype=torch.int64))


def read_official(name: str, root: Path) -> tuple[ImageSet, ImageSet]:
    """All training and all test images, in their official order.

    Args:
        name: The data set, a module of this package.
        root: Folder of the official files, laid out as torchvision does; missing ones are downloaded to it.

    Raises:
        RequestError: files are damaged, or are missing and cannot be downloaded. No file at `root` was changed.
        OSError: a file cannot be read or written.
    """
    source: Source = import_module(f"{__name__}.{name}").source()
    if _differing(root, source.files):
        _complete(name, source, root)
    return source.read(root)


def _differing(root: Path, expected: dict[str, str]) -> dict[str, str | None]:
    """The files whose MD5 is not the expected one, and what it is instead; None for a file that is missing."""
    found = {path: _digest(root / path) for path in expected}
    return {path: digest for path, digest in found.items() if digest != expected[path]}


def _digest(path: Path) -> str | None:
    return file_digest(require_file(path), "md5") if path.exists() else None


def _complete(name: str, source: Source, root: Path) -> None:
    """Download what is missing; refuse to replace a file that is there.

    The download goes to a folder of its own, which is removed in any case: only whole and checked files get out of it.
    """
    differing = _differing(root, source.digests)
    if any(differing.values()):
        raise RequestError(_describe(name, source, root, differing, "Remove every file with another MD5, then"))
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".download-") as folder:
        staging = Path(folder)
        try:
            for path, (address, md5) in source.downloads.items():
                place = staging / path if path in differing else root / path
                place.parent.mkdir(parents=True, exist_ok=True)
                fetch(address, place, md5)
                if path not in source.files:
                    unpack(place, staging)
        except DownloadFailed as error:
            begin = f"The download failed ({error}). Either"
            raise RequestError(_describe(name, source, root, differing, begin)) from None
        for path in source.files.keys() & differing.keys():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / path, root / path)


def _describe(name: str, source: Source, root: Path, differing: dict[str, str | None], begin: str) -> str:
    """Each file that is wrong, and the ways out."""
    lines = [
        f"  {root / path}: expected MD5 {source.digests[path]}, "
        + ("the file is missing" if digest is None else f"found {digest}")
        for path, digest in differing.items()
        if path in source.files or digest is not None
    ]
    archives = [f" or their archive {root / path}" for path in source.downloads if path not in source.files]
    addresses = " and ".join(address for address, _ in source.downloads.values())
    return "\n".join(
        [
            f"data set '{name}': {len(lines)} of its official files are missing or damaged",
            *lines,
            f"{begin} put the official files{''.join(archives)} there by hand (from {addresses}), "
            "or run 'python -m stages.prepare' (or 'make prepare') with a network, which downloads what is missing.",
        ]
    )
