"""Whether images of one's own are as they were when they were prepared: a look that opens none of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.datasets import is_own
from pipeline.core.files import Damaged, read_record
from pipeline.provenance.folders import MANIFEST_FILE, prepared_folder

SOURCE = "source"
"""The key of the stamp in the manifest of prepared images."""


def stamp(root: Path) -> str:
    """A digest over the path, size and time of every file at `root`."""
    digest = hashlib.sha256()
    for path in [root] if root.is_file() else sorted(_files(root)):
        try:
            status = path.stat()
        except OSError:  # a link that leads nowhere, which reading will tell of
            continue
        digest.update(os.fsencode(f"{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    """The files of a tree, behind links to folders too, each of which is followed once."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (Path(folder, name) for name in names)


def are_touched(params_file: Path) -> bool:
    """Whether images of one's own, which a params.yaml names, have been touched since they were prepared; False where
    they are not prepared, where the data set is another kind, and where the file has mistakes, which others tell."""
    try:
        data: Any = yaml.safe_load(params_file.read_text(encoding="utf-8"))["data"]
        name, root = data["name"], Path(data["root"])
        found = read_record(prepared_folder(name) / MANIFEST_FILE) if is_own(name) else {}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, Damaged):
        return False
    return found.get(SOURCE) not in (None, stamp(root))
