"""Archives and files of CIFAR-10 that must not be unpacked or read."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from functools import cache
from typing import Any

import numpy as np

CIFAR10 = "cifar-10"
BATCH = "cifar-10-batches-py/data_batch_1"
ESCAPED = "/tmp/archive-that-escaped"
"""Where an archive with an absolute path would write."""


class Code:
    """Something that unpickling would run, which leaves a file where it does."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, ("written", "w"))


def _tar(name: str, content: bytes = b"x", **fields: Any) -> bytes:
    """A compressed tar file with one member."""
    member, buffer = tarfile.TarInfo(name), io.BytesIO()
    for key, value in fields.items():
        setattr(member, key, value)
    member.size = 0 if fields else len(content)
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _batch(images: Any, labels: Any) -> bytes:
    return pickle.dumps({b"data": images, b"labels": labels})


@cache
def archives() -> dict[str, bytes]:
    """Contents by what is wrong with them."""
    images, packed = np.zeros((10, 3072), np.uint8), io.BytesIO()
    whole = _tar(BATCH, _batch(images, [0] * 10))
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("../../evil", b"x")
    return {
        "nothing": b"",
        "text": b"<html>404</html>",
        "one small file": whole,
        "cut off": whole[:-50],
        "a path out of the folder": _tar("../../evil"),
        "an absolute path": _tar(ESCAPED),
        "a link out of the folder": _tar("link", type=tarfile.SYMTYPE, linkname="../../.."),
        "a hard link out of the folder": _tar("link", type=tarfile.LNKTYPE, linkname="../../params.yaml"),
        "a device": _tar("zero", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        "a zip file": packed.getvalue(),
        "a pickle with code": pickle.dumps(Code()),
        "images of another type": _batch(images.astype(np.float64), [0] * 10),
        "labels out of range": _batch(images, [10, -1, 2**40]),
    }
