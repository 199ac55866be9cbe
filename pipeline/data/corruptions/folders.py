"""Folders of corrupted images: the official ones, checked, and regenerated ones, told apart for good.

All files are NumPy arrays of uint8. Corruptions: (5 * images, height, width, channels), severity 1 first, each severity
in the order of the test set; perturbations: (images, frames, height, width, channels).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import RequestError
from pipeline.core.files import file_digest, read_kept, require_file
from pipeline.data.corruptions.download import download_release
from pipeline.data.corruptions.facts import BENCHMARK_CORRUPTIONS, BENCHMARK_PERTURBATIONS, FRAMES, RELEASES, Release

MANIFEST_FILE = "manifest.json"
LABELS = "labels"

Kind = Literal["corruptions", "perturbations"]
Provenance = Literal["official", "unverified", "regenerated"]
"""official: every MD5 is the published one. unverified: lies where official files belong, but no MD5 was published (the
-P sequences). regenerated: written by `regenerate`; deterministic files may have the official bytes all the same."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder whose files were all checked."""

    path: Path
    kind: Kind
    provenance: Provenance
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    """(images,): the classes of the test images, in the order of the files."""

    def file(self, name: str) -> Path:
        """The array of one corruption or perturbation."""
        return array_file(self.path, name)

    def __len__(self) -> int:
        return len(self.labels)


def array_file(folder: Path, name: str) -> Path:
    """Where the array of this name lies."""
    return folder / f"{name}.npy"


def row_chunks(path: Path, first: int, count: int, size: int) -> Iterator[NDArray[np.uint8]]:
    """Copies of rows `first` to `first + count - 1` of an array, at most `size` at once.

    The file is mapped anew for every chunk: pages of a mapping that lives on count as memory of this process.
    """
    for start in range(first, first + count, size):
        yield np.array(np.load(path, mmap_mode="r")[start : min(start + size, first + count)])


def open_corruptions(
    root: Path,
    dataset: str,
    names: tuple[str, ...] = BENCHMARK_CORRUPTIONS,
    download: bool = False,
) -> ImageFolder:
    """The official CIFAR-10-C or CIFAR-100-C below `root`.

    Args:
        names: The corruptions that are wanted; only their files must be there.
        download: Fetch the archive (2.9 GB) if files are missing. Files that are there are never replaced.

    Raises:
        RequestError: there is no such release, or files are missing or damaged. All are named.
        PipelineError: there is no room on the disk for the download.
    """
    release = _release(dataset)
    folder = root / release.folder
    if download and not all(array_file(folder, name).exists() for name in (LABELS, *names)):
        download_release(release, root)
    _refuse(
        folder,
        [_wrong_bytes(array_file(folder, name), release.files[name]) for name in (LABELS, *names)],
        f"Put the official files there by hand ({release.archive}, MD5 {release.archive_md5}, from {release.address}), "
        "or remove the wrong ones and allow the download of what is missing, or regenerate images from the test set in "
        "a folder of their own (their numbers are marked 'regenerated').",
    )
    labels = np.load(array_file(folder, LABELS))[: release.images].astype(np.int64)
    return ImageFolder(folder, "corruptions", "official", names, labels)


def _release(dataset: str) -> Release:
    if dataset not in RELEASES:
        raise RequestError(
            f"data set '{dataset}' has no official corrupted images, only {' and '.join(RELEASES)} have: regenerate "
            "them from its test images"
        )
    return RELEASES[dataset]


def open_perturbations(
    root: Path, dataset: str, labels: NDArray[np.integer[Any]], names: tuple[str, ...] = BENCHMARK_PERTURBATIONS
) -> ImageFolder:
    """CIFAR-10-P or CIFAR-100-P below `root`: checked for type and shape, since no digest was ever published.

    Args:
        labels: (images,) classes of the test images in the official order; the release has none.

    Raises:
        RequestError: there is no such release, or files are missing, truncated or of another shape. All are named.
    """
    release = _release(dataset)
    folder = root / release.sequence_folder
    size = release.size
    _refuse(
        folder,
        [_wrong_form(array_file(folder, name), (release.images, FRAMES[name], size, size, 3)) for name in names],
        f"Put the files of {folder.name} there by hand (its authors share a folder, there is no archive to download), "
        "or regenerate them from the test set in a folder of their own.",
    )
    return ImageFolder(folder, "perturbations", "unverified", names, labels.astype(np.int64))


def open_regenerated(folder: Path, kind: Kind, names: tuple[str, ...]) -> ImageFolder:
    """A folder that `regenerate` wrote, checked against its manifest.

    Raises:
        RequestError: the manifest is missing, damaged or of another kind; files are missing or damaged. All are named.
    """
    manifest = read_manifest(folder)
    if manifest["kind"] != kind:
        raise RequestError(f"{folder / MANIFEST_FILE}: is of {manifest['kind']}, {kind} were asked for")
    files, way_out = manifest["files"], "Remove the damaged files and regenerate: what is whole is kept."
    wanted = (LABELS, *names)
    if absent := [name for name in wanted if name not in files]:
        raise RequestError(f"{folder}: not in {MANIFEST_FILE}: {', '.join(absent)}. {way_out}")
    _refuse(folder, [_wrong_bytes(array_file(folder, name), files[name]["md5"]) for name in wanted], way_out)
    labels = np.load(array_file(folder, LABELS))[: manifest["images"]].astype(np.int64)
    return ImageFolder(folder, kind, "regenerated", names, labels)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a regenerated folder says about itself.

    Raises:
        RequestError: it says nothing, or nothing that can be read.
    """
    way_out = "regenerate the images in an empty folder, or name the folder that holds them"
    return read_kept(folder / MANIFEST_FILE, "this is no folder of regenerated images", way_out)


def _wrong_bytes(path: Path, md5: str) -> str | None:
    """What is wrong with a file whose MD5 is known, or None."""
    if not path.exists():
        return f"{path}: is missing"
    found = file_digest(require_file(path), "md5")
    return None if found == md5 else f"{path}: expected MD5 {md5}, found {found}"


def _wrong_form(path: Path, shape: tuple[int, ...]) -> str | None:
    """What is wrong with a file of which only type and shape are known, or None."""
    if not path.exists():
        return f"{path}: is missing"
    try:
        array = np.load(require_file(path), mmap_mode="r")
        found = f"{array.dtype} of shape {array.shape}"
    except Exception as error:  # foreign bytes can raise nearly anything in NumPy's reader of headers
        found = f"no whole NumPy array ({type(error).__name__}, {path.stat().st_size} bytes)"
    expected = f"uint8 of shape {shape}"
    return None if found == expected else f"{path}: holds {found}, expected {expected}"


def _refuse(folder: Path, problems: list[str | None], ways_out: str) -> None:
    lines = [f"  {problem}" for problem in problems if problem is not None]
    if lines:
        wrong = "files are" if len(lines) > 1 else "file is"
        raise RequestError("\n".join([f"{folder}: {len(lines)} {wrong} missing or damaged", *lines, ways_out]))
