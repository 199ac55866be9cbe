"""Arrays in one NPZ file: `train_images`, `train_labels`, `test_images`, `test_labels`, or `images` and `labels`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import DataSettings
from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSet
from pipeline.data.own.base import OwnData, check_labels, check_memory, labels_of, named, resized, split_off

SPLIT = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_x", "train_y", "test_x", "test_y"),
)
WHOLE = (("images", "labels"), ("x", "y"), ("X", "y"))
"""The names that arrays may have; the first of each is the one that the documentation has."""
CLASSES = "classes"
"""Names of the classes, which may be left out."""
KNOWN = {CLASSES, *chain.from_iterable((*SPLIT, *WHOLE))}
CHANNELS = (1, 3)


def read_arrays(settings: DataSettings) -> OwnData:
    """All images of the file at `data.root`; see `read_own`."""
    path = settings.root
    arrays = _open(path)
    names = next((keys for keys in (*SPLIT, *WHOLE) if all(key in arrays for key in keys)), None)
    if names is None:
        raise RequestError(
            f"{path}: holds {named(sorted(arrays)) or 'nothing'}; expected {', '.join(SPLIT[0])}, or "
            f"{', '.join(WHOLE[0])}"
        )
    pairs = [_pair(arrays, names[place], names[place + 1], path) for place in range(0, len(names), 2)]
    pairs = [(resized(images, settings.size), labels) for images, labels in pairs]
    count = check_labels([label for _, labels in pairs for label in labels], str(path))
    classes = _class_names(arrays, count, path)
    whole, *tests = [
        ImageSet(torch.from_numpy(np.ascontiguousarray(images)), torch.tensor(labels)) for images, labels in pairs
    ]
    return OwnData(whole, tests[0], classes) if tests else split_off(whole, classes, settings.split_seed)


def to_bytes(values: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Values as bytes from 0 to 255; floats from 0 to 1 are multiplied by 255.

    Raises:
        RequestError: they are of another type or range.
    """
    kind = values.dtype.kind
    if kind not in "iuf" or not values.size:
        raise RequestError(
            f"{what}: is of type {values.dtype} and shape {values.shape}, expected images of bytes (uint8), or of "
            "floats from 0 to 1"
        )
    if kind == "f" and not np.isfinite(values).all():
        raise RequestError(f"{what}: {np.count_nonzero(~np.isfinite(values)):,} values are NaN or infinite; mend them")
    low, high = float(values.min()), float(values.max())
    if kind == "f":
        if low >= 0 and high <= 1:
            scaled: NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
            return scaled
        way_out = "astype('uint8') is right for these" if low >= 0 and high <= 255 else "scale them"
        raise RequestError(f"{what}: floats are from {low:g} to {high:g}, expected 0 to 1, or bytes (uint8); {way_out}")
    if low < 0 or high > 255:
        raise RequestError(f"{what}: values are from {low:g} to {high:g}, expected bytes from 0 to 255; scale them")
    whole: NDArray[np.uint8] = values.astype(np.uint8, copy=False)
    return whole


def channels_first(images: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """(images, height, width), NHWC or NCHW as NCHW; the channels are 1 or 3.

    Raises:
        RequestError: it is none of these, or may be both of the latter.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4:
        first, last = images.shape[1] in CHANNELS, images.shape[3] in CHANNELS
        if first and last:
            raise RequestError(
                f"{what}: of shape {images.shape}, channels may come first or last; give them as (images, height, "
                "width) if they are grey, or larger than three pixels"
            )
        if first or last:
            return images if first else np.moveaxis(images, 3, 1)
    raise RequestError(
        f"{what}: is of shape {images.shape}; expected (images, height, width), (images, height, width, 1 or 3), or "
        "(images, 1 or 3, height, width)"
    )


def _open(path: Path) -> Mapping[str, Any]:
    """The arrays of a file. Pickles, which may run any program, are never loaded."""
    if not path.is_file():
        raise RequestError(f"data.root: {path} is no file; expected one that numpy.savez_compressed wrote (.npz)")
    if not zipfile.is_zipfile(path):
        raise RequestError(
            f"{path}: is no NPZ file; numpy.savez_compressed('{path.stem}.npz', images=..., labels=...) is"
        )
    with zipfile.ZipFile(path) as packed:
        check_memory(1, [sum(part.file_size for part in packed.infolist())])
    try:
        with np.load(path, allow_pickle=False) as packed_arrays:
            return {name: _load(packed_arrays, name, path) for name in packed_arrays.files}
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # NumPy, zipfile and zlib stumble over damage in many ways
        raise RequestError(f"{path}: is damaged ({error}); write it anew") from None


def _load(packed: Any, name: str, path: Path) -> Any:
    """An array of a file; None for one of Python objects that nobody asks for."""
    try:
        return packed[name]
    except ValueError as error:
        if "pickle" not in str(error).lower():
            raise
        if name not in KNOWN:
            return None
        way_out = "astype(str) makes text of names" if name == CLASSES else "Save numbers, all images of one shape"
        raise RequestError(
            f"{path}: {name} are Python objects (pickles), which are never loaded: they could run any program. "
            f"{way_out}"
        ) from None


def _pair(arrays: Mapping[str, Any], images: str, labels: str, path: Path) -> tuple[NDArray[np.uint8], list[int]]:
    pixels = channels_first(to_bytes(arrays[images], f"{path}, {images}"), f"{path}, {images}")
    numbers = labels_of(arrays[labels], f"{path}, {labels}")
    if len(pixels) != len(numbers):
        raise RequestError(f"{path}: has {len(pixels):,} {images} and {len(numbers):,} {labels}, expected as many")
    return pixels, numbers


def _class_names(arrays: Mapping[str, Any], count: int, path: Path) -> tuple[str, ...]:
    if CLASSES not in arrays:
        return tuple(map(str, range(count)))
    names = arrays[CLASSES].ravel()
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "backslashreplace")
    given = tuple(map(str, names))
    if len(given) != count:
        raise RequestError(f"{path}: names {len(given)} {CLASSES}, labels are of {count}")
    return given
