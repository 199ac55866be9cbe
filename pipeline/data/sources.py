"""The official files of each data set: found, checked, downloaded where they are missing, and read."""

from __future__ import annotations

import os
import socket
import ssl
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import numpy as np
import torch

from pipeline.config import DatasetName
from pipeline.core.datasets import DATASETS
from pipeline.core.errors import RequestError
from pipeline.core.files import file_digest, require_file
from pipeline.data.images import ImageSet

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

NETWORK_TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""

# A full disk is not among them: it is no reason to ask for a network.
DOWNLOAD_ERRORS = (URLError, ConnectionError, TimeoutError, ssl.SSLError, HTTPException, RuntimeError)

Digests = dict[str, str]
"""Path below the root -> MD5 in hexadecimal digits, as torchvision lists them."""


@dataclass(frozen=True)
class Source:
    """How torchvision knows one data set."""

    files: Digests
    """What is read."""
    downloads: Digests
    """What the addresses give: the files themselves, or the archive that holds them."""
    addresses: list[str]
    download: Callable[[Path], Any]
    """Download below a root, all but the `downloads` that are there, and unpack."""
    read: Callable[[Path], tuple[ImageSet, ImageSet]]
    """Training and test images from files that were checked."""


def read_official(name: DatasetName, root: Path) -> tuple[ImageSet, ImageSet]:
    """All training and all test images, in their official order.

    Args:
        name: The data set.
        root: Folder of the official files, laid out as torchvision does; missing ones are downloaded to it.

    Raises:
        RequestError: files are damaged, or are missing and cannot be downloaded. No file at `root` was changed.
        OSError: a file cannot be read or written.
    """
    if name == "digits":
        return _read_digits()
    source = SOURCES[name]()
    if _differing(root, source.files):
        _fetch(name, source, root)
    return source.read(root)


def _differing(root: Path, expected: Digests) -> dict[str, str | None]:
    """The files whose MD5 is not the expected one, and what it is instead; None for a file that is missing."""
    found = {path: _digest(root / path) for path in expected}
    return {path: digest for path, digest in found.items() if digest != expected[path]}


def _digest(path: Path) -> str | None:
    return file_digest(require_file(path), "md5") if path.exists() else None


def _fetch(name: str, source: Source, root: Path) -> None:
    """Download what is missing; refuse to replace a file that is there.

    The download goes to a folder of its own, which is removed in any case: only whole and checked files get out of it.
    """
    differing = _differing(root, source.files | source.downloads)
    if any(differing.values()):
        raise RequestError(_describe(name, source, root, "Remove every file with another MD5, then"))
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".download-") as folder:
        staging = Path(folder)
        for path in source.downloads.keys() - differing.keys():
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            (staging / path).symlink_to((root / path).resolve())
        try:
            with _network_timeout(), _cautious_archives():
                source.download(staging)
        except DOWNLOAD_ERRORS as error:
            reason = " ".join(str(error).split())
            raise RequestError(_describe(name, source, root, f"The download failed ({reason}). Either")) from None
        for path in source.files.keys() & differing.keys():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / path, root / path)


@contextmanager
def _network_timeout() -> Iterator[None]:
    """torchvision sets none: a server that stops answering would stop everything for good."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _cautious_archives() -> Iterator[None]:
    """torchvision unpacks tar files without a filter: nothing may lead out of the folder, whatever its digest is."""
    before = getattr(tarfile.TarFile, "extraction_filter", None)
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _describe(name: str, source: Source, root: Path, beginning: str) -> str:
    """Each file that is wrong, and the ways out."""
    expected = source.files | source.downloads
    wrong = _differing(root, source.files)
    wrong |= {path: digest for path, digest in _differing(root, source.downloads).items() if digest is not None}
    lines = [
        f"  {root / path}: expected MD5 {expected[path]}, " + (f"found {digest}" if digest else "the file is missing")
        for path, digest in wrong.items()
    ]
    archives = [f" or their archive {root / path}" for path in source.downloads if path not in source.files]
    addresses = " and ".join(source.addresses)
    return "\n".join(
        [
            f"data set '{name}': {len(wrong)} of its official files are missing or damaged",
            *lines,
            f"{beginning} put the official files{''.join(archives)} there by hand (from {addresses}), "
            "or run 'python -m stages.prepare' (or 'make prepare') with a network, which downloads what is missing.",
        ]
    )


def _read_digits() -> tuple[ImageSet, ImageSet]:
    """The digits that scikit-learn brings along, 0..16 scaled to 0..255.

    They have no official split. Here 360 of the 1797 are test images, drawn with seed 0 so that every class has the
    same share of both parts.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    train, test = train_test_split(
        np.arange(len(images)), test_size=DATASETS["digits"].test_images, stratify=digits.target, random_state=0
    )
    return _image_set(images[train], digits.target[train]), _image_set(images[test], digits.target[test])


def _cifar10() -> Source:
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10)


def _cifar100() -> Source:
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100)


def _cifar(dataset: type[CIFAR10]) -> Source:
    def read(root: Path, train: bool) -> ImageSet:
        loaded = dataset(root, train=train)
        return _image_set(loaded.data.transpose(0, 3, 1, 2), loaded.targets)

    listed = [*dataset.train_list, *dataset.test_list, [dataset.meta["filename"], dataset.meta["md5"]]]
    return Source(
        files={f"{dataset.base_folder}/{file}": md5 for file, md5 in listed},
        downloads={dataset.filename: dataset.tgz_md5},
        addresses=[dataset.url],
        download=lambda root: dataset(root, download=True),
        read=lambda root: (read(root, train=True), read(root, train=False)),
    )


def _mnist() -> Source:
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import extract_archive

    files = {f"MNIST/raw/{file}": md5 for file, md5 in MNIST.resources}

    def read(root: Path) -> tuple[ImageSet, ImageSet]:
        # torchvision checks only the archives: unpacked files that lie beside them could be anything.
        with TemporaryDirectory() as folder:
            unpacked = Path(folder) / "MNIST" / "raw"
            unpacked.mkdir(parents=True)
            for path in files:
                extract_archive(root / path, unpacked)
            train, test = MNIST(folder, train=True), MNIST(folder, train=False)
        return _image_set(train.data[:, None], train.targets), _image_set(test.data[:, None], test.targets)

    return Source(
        files=files,
        downloads=files,
        addresses=[MNIST.mirrors[0]],
        download=lambda root: MNIST(root, download=True),
        read=read,
    )


def _svhn() -> Source:
    from torchvision.datasets import SVHN

    parts = [SVHN.split_list["train"], SVHN.split_list["test"]]
    files = {file: md5 for _, file, md5 in parts}

    def download(root: Path) -> None:
        for part in ("train", "test"):
            SVHN(root, split=part, download=True)

    def read(root: Path, part: str) -> ImageSet:
        loaded = SVHN(root, split=part)
        return _image_set(loaded.data, loaded.labels)

    return Source(
        files=files,
        downloads=files,
        addresses=[address for address, _, _ in parts],
        download=download,
        read=lambda root: (read(root, "train"), read(root, "test")),
    )


def _image_set(images: Any, labels: Any) -> ImageSet:
    """From arrays, tensors or lists."""
    return ImageSet(torch.as_tensor(images).contiguous(), torch.as_tensor(labels, dtype=torch.int64))


SOURCES: dict[str, Callable[[], Source]] = {"cifar10": _cifar10, "cifar100": _cifar100, "mnist": _mnist, "svhn": _svhn}
"""By data set. Those that are streamed are read by `pipeline.data.imagefolder`."""
