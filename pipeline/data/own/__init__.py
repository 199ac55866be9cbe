"""Images of one's own that are whole in memory: folders, arrays in one file, or whatever a function gives."""

from __future__ import annotations

import torch

from pipeline.config import DataSettings
from pipeline.core.streams import stream
from pipeline.data.own.arrays import read_arrays
from pipeline.data.own.base import OwnData, check
from pipeline.data.own.factories import call_factory
from pipeline.data.own.folders import read_folders


def read_own(settings: DataSettings) -> OwnData:
    """Read and check the images at `data.root`.

    Test images are put in a random order by `data.split_seed`: attacks on the first so many see every class.

    Raises:
        RequestError: they are not there, cannot be read, or are not such that a network can be trained and tested on
            them; the message has the way out.
    """
    reader = {"images": read_folders, "arrays": read_arrays}.get(settings.name, call_factory)
    found = reader(settings)
    check(found)
    order = torch.randperm(len(found.test), generator=stream(settings.split_seed, "order of test images"))
    return OwnData(found.train, found.test.subset(order), found.classes)
