"""Corrupted images made anew from any labelled image set, in the official format, and marked as regenerated."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import atomic_write, exclusive, file_digest, remove_half_written, write_record
from pipeline.core.processes import ending_at_once
from pipeline.data.corruptions.catalogue import corrupt, image_generator
from pipeline.data.corruptions.facts import FRAMES, RELEASES, SEVERITIES
from pipeline.data.corruptions.folders import LABELS, MANIFEST_FILE, Kind, array_file, read_manifest
from pipeline.data.corruptions.jpeg import codec
from pipeline.data.corruptions.perturbations import perturb

CHUNK = 100
"""Images that are made at once: at most 10 MB of CIFAR sequences."""
LINE_INTERVAL = 30.0
"""Seconds between lines about one file."""
LIBRARIES = ("numpy", "scipy", "opencv-python-headless", "pillow", "matplotlib", "torchvision")


@dataclass(frozen=True)
class CleanImages:
    """What is corrupted.

    dataset: its name, part of every random stream's address. images: (n, height, width, channels), uint8. labels: (n,).
    """

    dataset: str
    images: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]

    def digest(self) -> str:
        """sha256 over shape, images and labels."""
        digest = hashlib.sha256(f"{self.images.shape}".encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype(np.int64).data)
        return digest.hexdigest()


def regenerate(
    kind: Kind,
    clean: CleanImages,
    destination: Path,
    names: tuple[str, ...],
    seed: int,
    processes: int = 1,
) -> dict[str, Any]:
    """Write one file per name, `labels.npy` and `manifest.json`, and say so; files that are whole already are kept.

    An image's randomness is addressed by seed, data set, name, severity and position: the bytes do not depend on
    `processes` or on what else is made. Memory does not grow with the number of images.

    Args:
        destination: A folder of its own.
        names: Corruptions or perturbations.
        processes: How many to work in; 1 works in this one.

    Returns:
        The manifest: 'regenerated' (true), 'kind', 'dataset', 'source_digest', 'images', 'seed', 'versions',
            'jpeg_codec', and 'files' with the MD5 and shape of each; 'official_bytes' of a file is true if it equals a
            released one.

    Raises:
        RequestError: images or labels that the format cannot hold, or a folder that holds something else.
        PipelineError: there is no room on the disk for all files.
        OSError: a file cannot be written; files before it are whole, it is absent.
    """
    _check_format(clean)
    repeats = len(SEVERITIES) if kind == "corruptions" else 1
    with exclusive(destination / ".lock", f"{destination}"):
        remove_half_written(destination)
        manifest = _begin(destination, _identity(kind, clean, seed))
        shapes = {name: _shape(kind, name, clean.images.shape) for name in names}
        _require_room(destination, shapes)
        if not manifest["files"]:  # before the first array, which without a manifest is taken for somebody else's
            write_record(destination / MANIFEST_FILE, manifest)
        labels = np.tile(clean.labels.astype(np.uint8), repeats)
        _write(destination, LABELS, manifest, labels.shape, [labels])
        with _pool(processes) as pool:
            for name, shape in shapes.items():
                rows = _made(kind, name, clean, seed, pool, 2 * processes)
                _write(destination, name, manifest, shape, rows)
    return manifest


def _check_format(clean: CleanImages) -> None:
    size, channels = clean.images.shape[1:3], clean.images.shape[3]
    if clean.images.dtype != np.uint8 or channels not in (1, 3) or min(size) < 4:
        raise RequestError(
            f"data set '{clean.dataset}': images of type {clean.images.dtype} and shape {clean.images.shape} were "
            "given, expected uint8 and (n, height, width, channels) with 4 pixels a side or more and 1 or 3 channels"
        )
    if clean.labels.min() < 0 or clean.labels.max() > 255:
        raise RequestError(
            f"data set '{clean.dataset}': labels are {clean.labels.min()} to {clean.labels.max()}, the format holds "
            "0 to 255"
        )


def _identity(kind: Kind, clean: CleanImages, seed: int) -> dict[str, Any]:
    return {
        "regenerated": True,
        "kind": kind,
        "dataset": clean.dataset,
        "source_digest": clean.digest(),
        "images": len(clean.images),
        "seed": seed,
        "versions": {library: _version(library) for library in LIBRARIES},
        "jpeg_codec": codec(),
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return f"unknown ({cv2.__version__})" if library.startswith("opencv") else "unknown"


def _begin(destination: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The manifest to go on with; anything else in the folder is refused."""
    if not (destination / MANIFEST_FILE).exists():
        foreign = sorted(path.name for path in destination.glob("*.npy"))
        if foreign:
            raise RequestError(
                f"{destination}: holds {', '.join(foreign)} and no {MANIFEST_FILE}: official files are never mixed "
                "with regenerated ones. Name another folder."
            )
        return {**identity, "files": {}}
    manifest = read_manifest(destination)
    differing = [key for key, value in identity.items() if manifest.get(key) != value]
    if differing:
        lines = [f"  {key}: {manifest.get(key)} there, {identity[key]} asked for" for key in differing]
        raise RequestError(
            "\n".join([f"{destination}: was made differently", *lines, "Remove that folder, or name another one."])
        )
    return manifest


def _require_room(destination: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Ask for it before the first of many hours, not at their end."""
    missing = [shape for name, shape in shapes.items() if not array_file(destination, name).exists()]
    needed, free = sum(math.prod(shape) for shape in missing), shutil.disk_usage(destination).free
    if free < needed:
        raise PipelineError(
            f"{destination}: {len(missing)} files need {needed:,} bytes on this disk, {free:,} are free: make room, or "
            "ask for fewer images (ood.images)"
        )


def _shape(kind: Kind, name: str, images: tuple[int, ...]) -> tuple[int, ...]:
    if kind == "corruptions":
        return (len(SEVERITIES) * images[0], *images[1:])
    return (images[0], FRAMES[name], *images[1:])


def _write(
    destination: Path,
    name: str,
    manifest: dict[str, Any],
    shape: tuple[int, ...],
    rows: Iterable[NDArray[np.uint8]],
) -> None:
    """Write one array unless it is there and whole, and then say so in the manifest."""
    path = array_file(destination, name)
    known = manifest["files"].get(name)
    if known is not None and path.exists() and file_digest(path, "md5") == known["md5"]:
        print(f"{path}: is there, kept", flush=True)
        return
    begin = spoken = time.monotonic()
    written = 0
    with atomic_write(path) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for part in rows:
            stream.write(part.tobytes())
            written += len(part)
            if time.monotonic() - spoken > LINE_INTERVAL:
                spoken = time.monotonic()
                print(f"{path}: {written} of {shape[0]} rows, {written / (spoken - begin):.0f} a second", flush=True)
    md5, release = file_digest(path, "md5"), RELEASES.get(manifest["dataset"])
    is_official = manifest["kind"] == "corruptions" and release is not None and md5 == release.files[name]
    manifest["files"][name] = {"md5": md5, "shape": list(shape), "official_bytes": is_official}
    write_record(destination / MANIFEST_FILE, manifest)
    print(f"{path}: {written} rows in {time.monotonic() - begin:.1f} s", flush=True)


def _pool(processes: int) -> AbstractContextManager[ProcessPoolExecutor | None]:
    """Worker processes; none where this one is enough."""
    if processes == 1:
        return nullcontext()
    context = multiprocessing.get_context("forkserver")  # libraries' threads do not survive a plain fork
    context.set_forkserver_preload([__name__])
    return ending_at_once(ProcessPoolExecutor(processes, context, cv2.setNumThreads, (1,)))


def _made(
    kind: Kind, name: str, clean: CleanImages, seed: int, pool: ProcessPoolExecutor | None, ahead: int
) -> Iterator[NDArray[np.uint8]]:
    """All rows of a file in their order; no more than `ahead` chunks are begun at once, since they wait in memory."""
    severities = SEVERITIES if kind == "corruptions" else (0,)
    starts = range(0, len(clean.images), CHUNK)
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    for severity, start in product(severities, starts):
        chunk = kind, clean.dataset, name, severity, seed, start, clean.images[start : start + CHUNK]
        if pool is None:
            yield _rows(*chunk)
            continue
        waiting.append(pool.submit(_rows, *chunk))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    yield from (future.result() for future in waiting)


def _rows(
    kind: Kind, dataset: str, name: str, severity: int, seed: int, start: int, images: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """What neighbouring images become; the first of them is at `start`."""
    made = []
    for index, image in enumerate(images, start):
        generator = image_generator(seed, kind, dataset, name, severity, index)
        sequence = kind == "perturbations"
        made.append(perturb(name, image, generator) if sequence else corrupt(name, image, severity, generator))
    return np.stack(made)
