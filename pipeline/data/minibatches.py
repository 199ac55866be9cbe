"""Training images as minibatches of uint8 on the device: from memory, or streamed from disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.config import AugmentationSettings, Sizes, StoredSize
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.launch import launch
from pipeline.core.machine import readers
from pipeline.core.ranks import Ranks
from pipeline.core.streams import stream
from pipeline.data.augmentation import augment
from pipeline.data.imagefolder.crops import RandomCrop
from pipeline.data.imagefolder.loader import StoredImages, Workers, training_batches
from pipeline.data.images import ImageSet


class Minibatches(Protocol):
    """Where a training gets its images from."""

    def __len__(self) -> int:
        """The number of images."""

    def of_epoch(self, epoch: int, sizes: Sizes, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of the shuffled, augmented minibatches of `epoch`, from number `first` on.

        A function of the seed, the epoch and the minibatch's number alone: the parts of all ranks are the minibatch.

        Args:
            epoch: From 1.
            sizes: Of batches and images.
            first: From 0.

        Yields:
            Images (rows, channels, height, width), uint8, and labels (rows,), int64, on the device.
        """


@dataclass(frozen=True)
class FromMemory:
    """Images that are all on the device."""

    images: ImageSet
    augmentation: AugmentationSettings
    seed: int
    ranks: Ranks

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def of_epoch(self, epoch: int, sizes: Sizes, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Minibatches`."""
        device = self.images.images.device
        order = torch.randperm(len(self), generator=stream(self.seed, "order", epoch)).to(device)
        for step, batch in list(enumerate(torch.split(order, sizes.batch)))[first:]:
            part = self.ranks.part(len(batch))
            chosen = self.images.subset(part.own(batch))
            generator = stream(self.seed, "augmentation", epoch, step, device=device, part=part)
            yield augment(chosen.images, self.augmentation, generator), chosen.labels


@dataclass(frozen=True)
class FromDisk:
    """Images that worker processes read, decode and crop while the device computes."""

    images: Mapping[StoredSize, StoredImages]
    """The same images, by the size that they were reduced to."""
    horizontal_flip: bool
    seed: int
    ranks: Ranks
    device: torch.device
    workers: int | None
    """Processes; None: this rank's share of the cores."""

    def __len__(self) -> int:
        """The number of images."""
        return len(next(iter(self.images.values())))

    def of_epoch(self, epoch: int, sizes: Sizes, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Minibatches`.

        Raises:
            RequestError: a shard is missing or damaged.
            PipelineError: so it is for one of several ranks, or a worker process was killed.
        """
        assert sizes.stored and sizes.crop, "streamed images have both sizes"
        count = readers(launch().local_count) if self.workers is None else self.workers
        batches = training_batches(
            self.images[sizes.stored],
            RandomCrop(sizes.crop, flip=self.horizontal_flip),
            sizes.batch,
            self.seed,
            epoch,
            first,
            self.ranks,
            Workers(count, pin_memory=self.device.type == "cuda"),
        )
        try:
            for images, labels in batches:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except RequestError as error:
            if self.ranks.count == 1:
                raise
            # Not a mistake of the request, which every rank would have met.
            raise PipelineError(str(error)) from None
