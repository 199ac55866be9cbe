"""The prepared images of a data set, wherever they are: whole in memory, or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import DataSettings, StoredSize
from pipeline.data.imagefolder.split import FolderSplit, open_folders
from pipeline.data.images import ImageSplit, load_split

Split = ImageSplit | FolderSplit


def open_split(prepared: Path, data: DataSettings, sizes: Sequence[StoredSize] = ()) -> Split:
    """The split of a prepared data set.

    Args:
        prepared: The folder that `stages.prepare` made of it.
        data: Which one.
        sizes: Of streamed images, the stored sizes that are trained on (none: the data set's own).

    Raises:
        RequestError: the data is not prepared, is damaged, or is another data set's.
    """
    if data.streaming is None:
        return load_split(prepared, data)
    return open_folders(prepared, data, list(sizes) or [data.streaming.stored_size])
