"""Batches of prepared images, decoded and cropped by worker processes, the same to the bit with any number of them.

What a batch holds is addressed, not consumed: the order of an epoch is a function of the seed and the epoch, and an
image's crop one of the seed, the epoch and the image. So a run continues at any step without reading what came before,
and the ranks of a distributed training together see the batches of a single process. Only indices are kept in memory,
36 bytes an image; shards are read image by image.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.ranks import ALONE, Ranks
from pipeline.core.streams import stream
from pipeline.data.decoding import DamagedImage, decode
from pipeline.data.imagefolder.crops import CentreCrop, RandomCrop
from pipeline.data.imagefolder.prepare import SUBSET_FILE, read_manifest
from pipeline.data.imagefolder.shards import WAY_OUT, read, read_names
from pipeline.data.imagefolder.subset import read_list
from pipeline.data.images import ImageSet

Part = Literal["train", "val"]
Batch = tuple[Tensor, Tensor]
"""Images (batch, 3, size, size), uint8, channels last in memory; labels (batch,), int64."""
PLACE = np.dtype([("shard", "i4"), ("start", "i8"), ("end", "i8"), ("label", "i8"), ("number", "i8")])
"""Where an image is: position of its shard in the list of files, its first byte there, the byte after its last one; its
label; its position in the part, which addresses its crops however the images were selected."""


@dataclass(frozen=True)
class StoredImages:
    """Labelled images on disk: all of a part, or some of them in some order."""

    files: tuple[Path, ...]
    """The shards of the part."""
    places: NDArray[np.void]
    """(n,), of type PLACE."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def labels(self) -> Tensor:
        """(n,), int64."""
        return torch.from_numpy(self.places["label"].copy())

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(n,): positions in the part."""
        return self.places["number"]

    def subset(self, indices: Tensor | Sequence[int] | NDArray[np.int64]) -> StoredImages:
        """The images at `indices`, in that order."""
        return replace(self, places=self.places[np.asarray(indices, dtype=np.int64)])

    def image(self, index: int) -> Image.Image:
        """One image, decoded to RGB.

        Raises:
            RequestError: its shard is missing or damaged.
        """
        shard, start, end, _, number = self.places[index].tolist()
        path = self.files[shard]
        try:
            # Upright already, where that is wanted.
            return decode(read(path, "bytes", slice(start, end)).tobytes(), upright=False).convert("RGB")
        except DamagedImage as error:
            raise RequestError(f"{path}: image {number} is damaged ({error}). {WAY_OUT}") from None


def open_images(folder: Path, part: Part) -> StoredImages:
    """All images of one part of a prepared folder, in the order of its source tree.

    Raises:
        RequestError: the folder is not prepared to the end, or a shard is missing or of another size than it was.
    """
    files, places = [], []
    for number, entry in enumerate(read_manifest(folder)["shards"][part]):
        path = folder / entry["file"]
        # Its sha256 would take minutes at every start.
        if path.exists() and (size := path.stat().st_size) != entry["bytes"]:
            raise RequestError(f"{path}: is damaged: {size} bytes, the manifest says {entry['bytes']}. {WAY_OUT}")
        labels, offsets = read(path, "labels"), read(path, "offsets")
        found = np.empty(len(labels), PLACE)
        found["shard"], found["label"] = number, labels
        found["start"], found["end"] = offsets[:-1], offsets[1:]
        files.append(path)
        places.append(found)
    whole = np.concatenate(places)
    whole["number"] = np.arange(len(whole))
    return StoredImages(tuple(files), whole)


def open_subset(folder: Path) -> StoredImages:
    """The validation images that attacks are evaluated on, in the order of the list.

    Raises:
        RequestError: as `open_images`, or the list is missing or is not the one in the manifest.
    """
    images = open_images(folder, "val")
    positions = {name: position for position, name in enumerate(n for file in images.files for n in read_names(file))}
    listed = read_list(folder / SUBSET_FILE, positions.keys())
    if listed.label != f"list {read_manifest(folder)['subset']['sha256']}":
        raise RequestError(f"{folder / SUBSET_FILE}: is not the list in the manifest. {WAY_OUT}")
    return images.subset([positions[name] for name in listed.names])


@dataclass(frozen=True)
class Workers:
    """Who reads and decodes."""

    count: int = 0
    """Processes; 0 works in this one."""
    ahead: int = 2
    """Batches that each process prepares before they are asked for."""
    pin_memory: bool = False
    """Put batches where a CUDA device can fetch them while it computes."""


HERE = Workers()


def training_batches(
    images: StoredImages,
    crop: RandomCrop,
    batch_size: int,
    seed: int,
    epoch: int,
    first: int = 0,
    ranks: Ranks = ALONE,
    workers: Workers = HERE,
) -> Iterator[Batch]:
    """This rank's part of the shuffled, randomly cropped minibatches of an epoch; the last one may be smaller.

    The parts of ranks 0, 1, ..., joined in this order, are the batch of a single process.

    Args:
        batch_size: Images of a minibatch, of all ranks together.
        first: The minibatch to begin with.
        ranks: Who share each minibatch.

    Raises:
        RequestError: a shard is missing or damaged.
        PipelineError: a worker process was killed.
    """
    order = torch.randperm(len(images), generator=stream(seed, "order", epoch)).numpy()
    slices = []
    for start in range(first * batch_size, len(images), batch_size):
        batch = order[start : start + batch_size]
        part = ranks.part(len(batch))
        slices.append(batch[part.first : part.last])
    return _load(_Batches(images, slices, crop, (seed, epoch)), workers)


def evaluation_batches(
    images: StoredImages, crop: CentreCrop, batch_size: int, workers: Workers = HERE
) -> Iterator[Batch]:
    """All images in their order; the last batch may be smaller.

    Raises:
        RequestError: a shard is missing or damaged.
        PipelineError: a worker process was killed.
    """
    order = np.arange(len(images), dtype=np.int64)
    slices = [order[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return _load(_Batches(images, slices, crop, None), workers)


def load_images(images: StoredImages, crop: CentreCrop, workers: Workers = HERE) -> ImageSet:
    """Few enough images as one set in memory: 5,000 of 224 x 224 take 753 MB.

    Raises:
        RequestError: a shard is missing or damaged.
        PipelineError: a worker process was killed.
    """
    # Filled in place: joining batches would take the memory twice.
    pixels = torch.empty((len(images), 3, crop.size, crop.size), dtype=torch.uint8)
    place = 0
    for batch, _ in evaluation_batches(images, crop, 64, workers):
        pixels[place : place + len(batch)] = batch
        place += len(batch)
    return ImageSet(pixels, images.labels)


@dataclass(frozen=True)
class _Batches(Dataset[Batch | PipelineError]):
    """What a worker process gets: item i is a batch, a function of what is here alone."""

    images: StoredImages
    slices: list[NDArray[np.int64]]
    """By batch, which images."""
    crop: RandomCrop | CentreCrop
    address: tuple[int, int] | None
    """Seed and epoch of the random crops."""

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, position: int) -> Batch | PipelineError:
        chosen = self.slices[position]
        pixels = np.empty((len(chosen), self.crop.size, self.crop.size, 3), np.uint8)
        try:
            for place, index in enumerate(chosen.tolist()):
                pixels[place] = self._crop(index)
        except PipelineError as error:
            return error  # raised in a worker process, its message would be wrapped in a traceback
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), self.images.subset(chosen).labels

    def _crop(self, index: int) -> NDArray[np.uint8]:
        image = self.images.image(index)
        if isinstance(self.crop, CentreCrop):
            return self.crop.apply(image)
        assert self.address is not None, "random crops have an address"
        seed, epoch = self.address
        return self.crop.apply(image, stream(seed, "crop", epoch, int(self.images.numbers[index])))


def _load(batches: _Batches, workers: Workers) -> Iterator[Batch]:
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=workers.count,
        prefetch_factor=workers.ahead if workers.count else None,
        pin_memory=workers.pin_memory,
        collate_fn=_unchanged,
        # Workers are seeded from here although they draw nothing: the default would take a number from torch's global
        # generator, and so change what others draw from it.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_leave_stopping_to_the_trainer,
    )
    iterator = iter(loader)
    try:
        while (batch := _next(iterator, workers)) is not None:
            if isinstance(batch, PipelineError):
                raise batch
            images, labels = batch  # a list, where it was pinned
            yield images, labels
    finally:
        del iterator  # its processes end with it, and an error's traceback would keep both


def _next(iterator: Iterator[Batch | PipelineError], workers: Workers) -> Batch | PipelineError | None:
    """The next batch, or the error that a worker met; None after the last."""
    try:
        return next(iterator, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise PipelineError(
            f"a process that decodes images was killed, often for want of memory; use fewer than {workers.count} "
            "workers. The last checkpoint is kept"
        ) from None


def _leave_stopping_to_the_trainer(worker: int) -> None:
    """Ignore signals that reach a whole family of processes: the trainer needs its next batch to save after a step.

    A worker ends when the trainer is done with it, or finds within seconds that the trainer is dead.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _kill_workers() -> None:
    """At exit, before multiprocessing sends daemons the SIGTERM that they ignore, and waits for them for ever."""
    for process in active_children():
        if process.daemon:
            process.kill()


atexit.register(_kill_workers)


def _unchanged(batch: Any) -> Any:
    return batch
