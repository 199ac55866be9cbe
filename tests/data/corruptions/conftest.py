"""Images to corrupt, and a small release that takes the place of the official one."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.corruptions import facts
from pipeline.data.corruptions.facts import CORRUPTIONS, RELEASES, Release
from pipeline.data.corruptions.filters import plasma
from pipeline.data.corruptions.generate import CleanImages

COUNT, SIZE = 3, 4


def cloudy(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """An image with coarse and fine structure, (height, width, channels)."""
    generator = np.random.default_rng(seed)
    layers = [plasma(height, width, 2, generator) for _ in range(channels)]
    return (np.stack(layers, axis=2) * 255).astype(np.uint8)


@pytest.fixture
def clean() -> CleanImages:
    """Five grey-scale images of 8 x 8."""
    images = np.stack([cloudy(8, 8, 1, seed) for seed in range(5)])
    return CleanImages("digits", images, np.array([3, 1, 4, 1, 5]))


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """A small release (three images of 4 x 4) in place of the real one, with its archive below `tmp_path/published`."""
    published = tmp_path / "published"
    folder = published / "CIFAR-10-C"
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", np.tile(np.array([7, 8, 9], np.uint8), 5))
    for number, name in enumerate(CORRUPTIONS):
        np.save(folder / f"{name}.npy", np.full((5 * COUNT, SIZE, SIZE, 3), number, np.uint8))
    archive = published / "CIFAR-10-C.tar"
    with tarfile.open(archive, "w") as packed:
        packed.add(folder, "CIFAR-10-C")
    made = replace(
        RELEASES["cifar10"],
        images=COUNT,
        size=SIZE,
        archive_bytes=archive.stat().st_size,
        archive_md5=hashlib.md5(archive.read_bytes()).hexdigest(),
        files={path.stem: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())},
    )
    monkeypatch.setitem(facts.RELEASES, "cifar10", made)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where official files belong."""
    return tmp_path / "raw"


@pytest.fixture
def installed(release: Release, tmp_path: Path, root: Path) -> Path:
    """The folder of the small release below `root`, as a person would put it there."""
    folder = root / release.folder
    folder.mkdir(parents=True)
    for path in (tmp_path / "published" / release.folder).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
