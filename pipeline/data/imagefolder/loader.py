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
from dataclasses import dataclass
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
from pipeline.core.streams import stream
from pipeline.data.imagefolder.crops import CentreCrop, RandomCrop
from pipeline.data.imagefolder.prepare import SUBSET_FILE, read_manifest
from pipeline.data.imagefolder.shards import WAY_OUT, DamagedImage, decode, read_encoded, read_index, read_names
from pipeline.data.imagefolder.subset import read_list
from pipeline.data.images import ImageSet

Part = Literal["train", "val"]
Batch = tuple[Tensor, Tensor]
"""Images (batch, 3, size, size), uint8, channels last in memory; labels (batch,), int64."""


@dataclass(frozen=True)
class StoredImages:
    """Labelled images on disk: all of a part, or some of them in some order."""

    files: tuple[Path, ...]
    """The shards of the part."""
    shards: NDArray[np.int32]
    """(n,): position of each image's shard in `files`."""
    starts: NDArray[np.int64]
    """(n,): first byte in its shard's `bytes`."""
    ends: NDArray[np.int64]
    """(n,): byte after the last one."""
    labels: Tensor
    """(n,), int64."""
    numbers: NDArray[np.int64]
    """(n,): position in the part, which addresses its crops however the images were selected."""

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def subset(self, indices: Tensor | Sequence[int]) -> StoredImages:
        """The images at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return StoredImages(
            self.files,
            self.shards[chosen],
            self.starts[chosen],
            self.ends[chosen],
            self.labels[torch.from_numpy(chosen)],
            self.numbers[chosen],
        )

    def image(self, index: int) -> Image.Image:
        """One image, decoded to RGB.

        Raises:
            RequestError: its shard is missing or damaged.
        """
        path = self.files[self.shards[index]]
        try:
            return decode(read_encoded(path, int(self.starts[index]), int(self.ends[index])))
        except DamagedImage as error:
            raise RequestError(f"{path}: image {int(self.numbers[index])} is damaged ({error}). {WAY_OUT}") from None


def open_images(folder: Path, part: Part) -> StoredImages:
    """All images of one part of a prepared folder, in the order of its source tree.

    Raises:
        RequestError: the folder is not prepared to the end, or a shard is missing or of another size than it was.
    """
    entries = read_manifest(folder)["shards"][part]
    indices = [read_index(_check_size(folder, entry)) for entry in entries]
    counts = [len(index.labels) for index in indices]
    return StoredImages(
        files=tuple(folder / entry["file"] for entry in entries),
        shards=np.repeat(np.arange(len(entries), dtype=np.int32), counts),
        starts=np.concatenate([index.offsets[:-1] for index in indices]),
        ends=np.concatenate([index.offsets[1:] for index in indices]),
        labels=torch.from_numpy(np.concatenate([index.labels for index in indices])),
        numbers=np.arange(sum(counts), dtype=np.int64),
    )


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


def _check_size(folder: Path, entry: dict[str, Any]) -> Path:
    """The path of a shard that has as many bytes as the manifest says. Its sha256 would take minutes at every start."""
    path: Path = folder / entry["file"]
    size = path.stat().st_size if path.exists() else None
    if size is not None and size != entry["bytes"]:
        raise RequestError(f"{path}: is damaged, it has {size} bytes, the manifest says {entry['bytes']}. {WAY_OUT}")
    return path


@dataclass(frozen=True)
class Workers:
    """Who reads and decodes."""

    count: int = 0
    """Processes; 0 works in this one."""
    ahead: int = 2
    """Batches that each process prepares before they are asked for."""
    pin_memory: bool = False
    """Put batches where a CUDA device can fetch them while it computes."""


@dataclass(frozen=True)
class TrainingStream:
    """The shuffled, randomly cropped minibatches of each epoch.

    Raises:
        RequestError: there are fewer images in a batch than ranks, or fewer images than a whole batch needs.
    """

    images: StoredImages
    crop: RandomCrop
    batch_size: int
    """Images of a minibatch, of all ranks together."""
    seed: int
    """The experiment's."""
    rank: int = 0
    ranks: int = 1
    drop_last: bool = False
    """Leave out a last batch that is smaller; with several ranks it may be too small for each to have a part."""
    workers: Workers = Workers()

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.ranks <= self.batch_size:
            raise RequestError(
                f"rank {self.rank} of {self.ranks} with batches of {self.batch_size}: expected 0 <= rank < ranks <= "
                "batch_size; give every rank an image of each batch"
            )
        if self.steps_per_epoch == 0:
            raise RequestError(
                f"{len(self.images)} images do not fill a batch of {self.batch_size}; use smaller batches"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch, the same on every rank."""
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This rank's part of the minibatches of `epoch` from number `first` on.

        The parts of ranks 0, 1, ..., joined in this order, are the batch of a single process.

        Raises:
            RequestError: a shard is missing or damaged.
            PipelineError: a worker process was killed.
        """
        order = torch.randperm(len(self.images), generator=stream(self.seed, "order", epoch)).numpy()
        slices = []
        for step in range(first, self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            low, high = (len(batch) * rank // self.ranks for rank in (self.rank, self.rank + 1))
            slices.append(batch[low:high])
        return _load(_Batches(self.images, slices, self.crop, (self.seed, epoch)), self.workers)


def evaluation_batches(
    images: StoredImages, crop: CentreCrop, batch_size: int, workers: Workers | None = None, first: int = 0
) -> Iterator[Batch]:
    """All images in their order, from batch number `first` on; the last batch may be smaller.

    Raises:
        RequestError: a shard is missing or damaged.
        PipelineError: a worker process was killed.
    """
    order = np.arange(len(images), dtype=np.int64)
    slices = [order[start : start + batch_size] for start in range(first * batch_size, len(images), batch_size)]
    return _load(_Batches(images, slices, crop, None), workers or Workers())


def load_images(images: StoredImages, crop: CentreCrop, workers: Workers | None = None) -> ImageSet:
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
    return ImageSet(pixels, images.labels.clone())


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
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), self.images.labels[torch.from_numpy(chosen)]

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
