"""A small ImageFolder tree, and what it is prepared to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.files import file_digest
from pipeline.core.progress import PreparationDisplay
from pipeline.data.imagefolder.prepare import ShardSettings, prepare_imagefolder
from tests.conftest import content_of
from tests.pictures import write_tree

SETTINGS = ShardSettings(size=48, images_per_shard=6)


class Watcher(PreparationDisplay):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__("preparing")
        self.total, self.made, self.found = 0, 0, 0
        self.messages: list[str] = []

    def on_start(self, images: int) -> None:
        self.total = images

    def on_images(self, count: int, found: bool) -> None:
        self.found += count if found else 0
        self.made += 0 if found else count

    def message(self, text: str) -> None:
        self.messages.append(text)


@dataclass(frozen=True)
class Prepared:
    """A finished preparation."""

    source: Path
    folder: Path
    manifest: dict[str, Any]
    watcher: Watcher


def prepare(source: Path, folder: Path, settings: ShardSettings = SETTINGS, **options: Any) -> Prepared:
    """Prepare with one process, unless `options` say otherwise."""
    watcher = Watcher()
    manifest = prepare_imagefolder(source, folder, settings, watcher, **{"workers": 1, **options})
    return Prepared(source, folder, manifest, watcher)


def digests(folder: Path) -> dict[str, str]:
    """Of every file but the lock, which names the process that held it."""
    return {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name != "lock"}


def settings_of(tree: Path, classes: int, **streaming: Any) -> dict[str, Any]:
    """The content of a params.yaml whose images are a tree's."""
    content = content_of("suite=imagenet", "architecture=small_cnn", "data.name=imagefolder", "data.classes=4")
    for norm in ("linf", "l2"):
        content["evaluation"]["attacks"][f"aa_{norm}"]["members"] = ["apgd_ce"]
    content["data"] |= {"root": str(tree), "classes": classes}
    content["data"]["streaming"] |= {"other_stored_sizes": [], **streaming}
    for method in content["methods"].values():
        method["phases"] = None
    return content


@pytest.fixture(scope="session")
def shared_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that tests leave as it is."""
    return write_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def tree(shared_tree: Path, tmp_path: Path) -> Path:
    """A tree that a test may change."""
    return Path(shutil.copytree(shared_tree, tmp_path / "tree"))


@pytest.fixture(scope="session")
def prepared(shared_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The shared tree, prepared; tests leave it as it is."""
    return prepare(shared_tree, tmp_path_factory.mktemp("prepared") / "pictures")


@pytest.fixture
def own_copy(prepared: Prepared, tmp_path: Path) -> Path:
    """A prepared folder that a test may damage."""
    return Path(shutil.copytree(prepared.folder, tmp_path / "pictures"))


Harm = Callable[[Path], Any]
