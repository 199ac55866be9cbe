"""An ImageFolder tree: `train/<class>/...` and `val/<class>/...`, listed and checked before any image is opened."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import RequestError

PARTS = ("train", "val")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image, in lower case: the endings that torchvision's ImageFolder reads."""


class SourceFile(NamedTuple):
    """One image of a tree."""

    name: str
    """Path below its part, with '/': 'n01440764/n01440764_10026.JPEG'."""
    label: int
    """Position of its class among the sorted class names."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Tree:
    """The images of both parts, sorted by class and path: the same tree gives the same list on every machine."""

    root: Path
    classes: tuple[str, ...]
    files: dict[str, tuple[SourceFile, ...]]
    """By part."""
    ignored: tuple[str, ...]
    """Files of classes, below the root, that do not end like an image."""

    @property
    def digest(self) -> str:
        """sha256 over the path, label and size of every image, in order."""
        digest = hashlib.sha256()
        for part, files in self.files.items():
            for file in files:
                digest.update(os.fsencode(f"{part}/{file.name}\0{file.label}\0{file.size}\n"))
        return digest.hexdigest()


def list_tree(root: Path) -> Tree:
    """List both parts of the tree at `root`; a class's folder may have folders of its own, as Tiny ImageNet's do.

    Raises:
        RequestError: a folder is missing or cannot be read, the parts have different classes, or a class is empty.
    """
    classes = {part: _class_names(root / part) for part in PARTS}
    _check_same(root, classes)
    files: dict[str, tuple[SourceFile, ...]] = {}
    ignored: list[str] = []
    for part in PARTS:
        found: list[SourceFile] = []
        for label, name in enumerate(classes[part]):
            for path, size in sorted(_walk(root / part / name, name)):
                if path.lower().endswith(EXTENSIONS):
                    found.append(SourceFile(path, label, size))
                else:
                    ignored.append(f"{part}/{path}")
        files[part] = tuple(found)
    tree = Tree(root, tuple(classes["train"]), files, tuple(ignored))
    _check_filled(tree)
    return tree


def _scan(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            # Hidden files are what file managers and archivers leave, not images.
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        raise RequestError(f"{folder}: is missing; {_EXPECTED}") from None
    except NotADirectoryError:
        raise RequestError(f"{folder}: is a file, not a folder; {_EXPECTED}") from None
    except OSError as error:
        raise RequestError(
            f"{folder}: cannot be read ({error.strerror}); check the owner and mode of the folder, and its disk"
        ) from None


_EXPECTED = "expected a folder SOURCE with train/<class>/*.JPEG and val/<class>/*.JPEG"


def _class_names(folder: Path) -> list[str]:
    entries = _scan(folder)
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise RequestError(
            f"{folder}: has no folders, but {len(entries)} files; {_EXPECTED}. ImageNet's official validation archive "
            "is flat: sort its images into one folder per class first"
        )
    return names


def _check_same(root: Path, classes: dict[str, list[str]]) -> None:
    train, val = set(classes["train"]), set(classes["val"])
    problems = [
        f"  only in {root / part}: {_first_of(sorted(names))}"
        for part, names in (("train", train - val), ("val", val - train))
        if names
    ]
    if problems:
        problems.insert(0, f"{root}: train has {len(train)} classes and val {len(val)}, expected the same in both")
        raise RequestError("\n".join([*problems, "  Move or remove the folders that one part lacks."]))


def _walk(folder: Path | str, name: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """(path below the part, bytes) of every file below a class's folder; `above` are the folders that led there."""
    here = os.path.realpath(folder)
    if any(f"{place}{os.sep}".startswith(f"{here}{os.sep}") for place in above):
        raise RequestError(f"{folder}: is a link to a folder that it lies in ({here}); remove it")
    for entry in _scan(folder):
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _walk(entry.path, path, (*above, here))
            continue
        try:
            status = entry.stat()
        except OSError as error:  # a symbolic link that leads nowhere
            raise RequestError(
                f"{entry.path}: cannot be read ({error.strerror}); restore the file or remove it"
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise RequestError(f"{entry.path}: is a pipe or a device, not a file; remove it")
        yield path, status.st_size


def _check_filled(tree: Tree) -> None:
    problems = []
    for part, files in tree.files.items():
        filled = {file.label for file in files}
        empty = [name for label, name in enumerate(tree.classes) if label not in filled]
        if empty:
            problems.append(f"  {tree.root / part}: {_first_of(empty)}")
    if problems:
        endings = " ".join(EXTENSIONS)
        raise RequestError(
            "\n".join([f"classes without an image (a file that ends in {endings}, in either case):", *problems])
        )


def _first_of(names: list[str]) -> str:
    """Up to five of them, and how many there are."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
