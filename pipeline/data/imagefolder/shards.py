"""Shards: many encoded images in one file, which any process can memory-map and any language can read.

A shard is a safetensors file (eight bytes of header length, a JSON header, plain little-endian arrays) with

- `bytes`: (total,), uint8, the encoded images one after the other;
- `offsets`: (n + 1,), int64, image i is `bytes[offsets[i]:offsets[i + 1]]`;
- `labels`: (n,), int64;
- `names`: (length,), uint8, the paths below the part, each ended by a zero byte (no file name has one).

Images stay JPEG: as arrays the 1.28 million training images of ImageNet, 256 pixels high, would take some 350 GB
(estimated), so that every epoch would wait for the disk; as JPEG of quality 95 some 60 GB, which the page cache of a
training machine holds. Chroma is kept at full resolution: on two photos it costs a quarter to a third more bytes and
takes the root mean square error from 0.52 and 0.65 of an attack budget of 4/255 to 0.36 and 0.47.

This module is free of torch: it is what the preparing processes import.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.core.errors import RequestError
from pipeline.core.files import atomic_write
from pipeline.data.decoding import decode, is_upright

QUALITY = 95
"""The quality of JPEGs that are written here."""
WAY_OUT = "'python -m stages.prepare' writes anew what is damaged."


class EncodedImage(NamedTuple):
    """What a shard keeps of an image."""

    name: str
    label: int
    content: bytes


def encode(content: bytes, size: int | None, upright: bool = False) -> bytes:
    """The image file `content` with its shorter side reduced to `size` pixels, antialiased, as JPEG.

    Where there is nothing to reduce (`size` is None, or the image is not larger) or to turn, the bytes are kept as they
    are: enlarging adds nothing that the crop does not do as well, and a second compression only loses.

    Raises:
        DamagedImage: see `decode`.
    """
    image = decode(content, upright)
    width, height = image.size
    if size is None or min(width, height) <= size:
        if not upright or is_upright(content):
            return content
        size = min(width, height)
    reduced = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    # Pillow's bilinear filter widens with the reduction: it is the antialiased resizing of torchvision.
    resized = image.convert("RGB").resize(reduced, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    resized.save(buffer, "JPEG", quality=QUALITY, subsampling="4:4:4")
    return buffer.getvalue()


def write_shard(path: Path, images: Sequence[EncodedImage]) -> None:
    """Write a shard, atomically.

    Raises:
        OSError: the file cannot be written; nothing half-written is left.
    """
    lengths = [len(image.content) for image in images]
    names = b"".join(os.fsencode(image.name) + b"\0" for image in images)
    tensors: dict[str, NDArray[Any]] = {
        "bytes": np.frombuffer(b"".join(image.content for image in images), np.uint8),
        "offsets": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        "labels": np.array([image.label for image in images], np.int64),
        "names": np.frombuffer(names, np.uint8),
    }
    with atomic_write(path) as stream:
        stream.write(save(tensors))


def read(path: Path, tensor: str, part: slice | None = None) -> NDArray[Any]:
    """One of a shard's arrays, or part of it.

    The file is opened for every read, which takes 22 microseconds of the milliseconds that decoding takes: there are
    no handles to share between processes or to run out of, and no mapping that grows with what was read.

    Raises:
        RequestError: the shard is missing or damaged.
    """
    try:
        with safe_open(path, "numpy") as shard:
            values: NDArray[Any] = shard.get_tensor(tensor) if part is None else shard.get_slice(tensor)[part]
            return values
    except FileNotFoundError:
        raise RequestError(f"{path}: is missing. {WAY_OUT}") from None
    except SafetensorError as error:
        raise RequestError(f"{path}: is damaged ({error}). {WAY_OUT}") from None


def read_names(path: Path) -> list[str]:
    """The paths of a shard's images, below their part.

    Raises:
        RequestError: the shard is missing or damaged.
    """
    return [os.fsdecode(name) for name in read(path, "names").tobytes().split(b"\0")[:-1]]
