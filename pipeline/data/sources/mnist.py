"""MNIST (LeCun et al., 1998)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from torchvision.datasets import MNIST
from torchvision.datasets.utils import extract_archive

from pipeline.data.images import ImageSet
from pipeline.data.sources import Source, image_set

FOLDER = Path("MNIST/raw")


def source() -> Source:
    """The four packed files."""
    files = {str(FOLDER / file): md5 for file, md5 in MNIST.resources}
    downloads = {str(FOLDER / file): (f"{MNIST.mirrors[0]}{file}", md5) for file, md5 in MNIST.resources}
    return Source(_read, files, downloads)


def _read(root: Path) -> tuple[ImageSet, ImageSet]:
    # torchvision checks only the archives: unpacked files that lie beside them could be anything.
    with TemporaryDirectory() as folder:
        unpacked = Path(folder) / FOLDER
        unpacked.mkdir(parents=True)
        for file, _ in MNIST.resources:
            extract_archive(root / FOLDER / file, unpacked)
        train, test = MNIST(folder, train=True), MNIST(folder, train=False)
    return image_set(train.data[:, None], train.targets), image_set(test.data[:, None], test.targets)
