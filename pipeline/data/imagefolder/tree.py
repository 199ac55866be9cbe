"""An ImageFolder tree: `train/<class>/...` and `val/<class>/...`, listed and checked before any image is opened."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import RequestError

PARTS = ("train", "val")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""What counts as an image, in lower case: the endings that torchvision's ImageFolder reads, and GIF."""
EXPECTED = "expected a folder SOURCE with train/<class>/*.JPEG and val/<class>/*.JPEG that may be read"


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


def list_tree(root: Path, parts: Sequence[str] = PARTS, expected: str = EXPECTED) -> Tree:
    """List the parts of the tree at `root`; a class's folder may have folders of its own, as Tiny ImageNet's do.

    Args:
        parts: Two folders of it, or "": its classes are not split into parts.
        expected: How the tree should be, for the message that says that it is not.

    Raises:
        RequestError: a folder is missing or cannot be read, the parts have different classes, or a class is empty.
    """
    classes = {part: _class_names(root / part, expected) for part in parts}
    train, test = set(classes[parts[0]]), set(classes[parts[-1]])
    _refuse_classes(
        f"{root}: {parts[0]} has {len(train)} classes and {parts[-1]} {len(test)}, expected the same in both: "
        "move or remove the folders that are only in",
        {root / parts[0]: sorted(train - test), root / parts[-1]: sorted(test - train)},
    )
    files: dict[str, tuple[SourceFile, ...]] = {}
    ignored: list[str] = []
    for part in parts:
        found: list[SourceFile] = []
        for label, name in enumerate(classes[part]):
            for path, size in sorted(_files_below(root / part, name, expected)):
                if path.lower().endswith(EXTENSIONS):
                    found.append(SourceFile(path, label, size))
                else:
                    ignored.append(f"{part}/{path}" if part else path)
        files[part] = tuple(found)
    filled = {part: {file.label for file in files[part]} for part in parts}
    _refuse_classes(
        f"classes without an image (a file that ends in {' '.join(EXTENSIONS)}, in either case)",
        {
            root / part: [name for label, name in enumerate(classes[part]) if label not in filled[part]]
            for part in parts
        },
    )
    return Tree(root, tuple(classes[parts[0]]), files, tuple(ignored))


def list_classes(root: Path) -> tuple[str, ...]:
    """The classes of a tree of two parts, without a look into them.

    Raises:
        RequestError: there is no such tree.
    """
    return tuple(_class_names(root / PARTS[0], EXPECTED))


def _refuse_classes(reason: str, wrong: dict[Path, list[str]]) -> None:
    """Raise an error with up to five classes of each part that is wrong, and how many there are."""
    lines = [
        f"  {folder}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        for folder, names in wrong.items()
        if names
    ]
    if lines:
        raise RequestError("\n".join([f"{reason}:", *lines]))


def _class_names(folder: Path, expected: str) -> list[str]:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise _unreadable(error, expected) from None
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise RequestError(
            f"{folder}: has no folders, but {len(entries)} files; {expected}. ImageNet's official validation archive "
            "is flat: sort its images into one folder per class first"
        )
    return names


def _unreadable(error: OSError, expected: str) -> RequestError:
    return RequestError(f"{error.filename}: cannot be read ({error.strerror}); {expected}")


def _files_below(part: Path, name: str, expected: str) -> Iterator[tuple[str, int]]:
    """(path below the part, bytes) of every file of a class; what is hidden was left by file managers and archivers."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error, expected)

    for folder, folders, names in os.walk(part / name, onerror=refuse, followlinks=True):
        here = Path(folder)
        if here.resolve() in (above.resolve() for above in here.parents):
            raise RequestError(f"{here}: is a link to a folder that it lies in ({here.resolve()}); remove it")
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        below = here.relative_to(part).as_posix()
        for file in names:
            if file.startswith("."):
                continue
            path = os.path.join(folder, file)
            try:
                status = os.stat(path)
            except OSError as error:  # a symbolic link that leads nowhere
                raise RequestError(f"{path}: cannot be read ({error.strerror}); restore or remove it") from None
            if not stat.S_ISREG(status.st_mode):
                raise RequestError(f"{path}: is a pipe or a device, not a file; remove it")
            yield f"{below}/{file}", status.st_size
