"""Images of one's own that are whole in memory: folders, arrays in one file, or whatever a function gives."""

from __future__ import annotations

from pipeline.config import DataSettings
from pipeline.data.own.arrays import read_arrays
from pipeline.data.own.base import OwnData, check
from pipeline.data.own.factories import call_factory
from pipeline.data.own.folders import read_folders


def read_own(settings: DataSettings) -> OwnData:
    """Read and check the images at `data.root`.

    Raises:
        RequestError: they are not there, cannot be read, or are not such that a network can be trained and tested on
            them; the message has the way out.
    """
    reader = {"images": read_folders, "arrays": read_arrays}.get(settings.name, call_factory)
    found = reader(settings)
    check(found)
    return found
