"""The prepared images of a data set, wherever they are: whole in memory, or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pipeline.config import DataSettings, StoredSize
from pipeline.data.images import ImageSplit, load_split

if TYPE_CHECKING:
    from pipeline.data.imagefolder.split import FolderSplit

Split: TypeAlias = "ImageSplit | FolderSplit"


def open_split(prepared: Path, data: DataSettings, sizes: Sequence[StoredSize] = ()) -> Split:
    """The split of a prepared data set; `sizes` are the stored sizes of streamed images that are trained on (none: its
    own).

    Raises:
        RequestError: the data is not prepared, is damaged, or is another data set's.
    """
    if data.streaming is None:
        return load_split(prepared, data)
    from pipeline.data.imagefolder.split import open_folders  # torchvision with it, 150 MiB

    return open_folders(prepared, data, list(sizes) or [data.streaming.stored_size])
