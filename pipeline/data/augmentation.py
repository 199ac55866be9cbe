"""Random crops and mirror images of a whole batch at once, on the device where the images are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.config import AugmentationSettings
from pipeline.core.streams import draw


class Placements(NamedTuple):
    """Where each image of a batch is cropped from its padded self, and whether the crop is mirrored."""

    tops: Tensor
    """(batch,), int64 in [0, 2 * crop_padding]: the crop's first row."""
    lefts: Tensor
    """(batch,), int64 in [0, 2 * crop_padding]: the crop's first column."""
    flips: Tensor
    """(batch,), bool."""


def draw_placements(count: int, settings: AugmentationSettings, generator: torch.Generator) -> Placements:
    """Independent, uniform placements for `count` images, on the generator's device."""
    place = partial(torch.randint, 2 * settings.crop_padding + 1)
    tops, lefts = draw(place, (count,), generator), draw(place, (count,), generator)
    coins = draw(torch.rand, (count,), generator)
    return Placements(tops, lefts, coins < (0.5 if settings.horizontal_flip else 0.0))


def augment(images: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Pad each image with zeros, crop it back at a random place, mirror it with probability 1/2 (He et al., 2016, 4.2).

    Args:
        images: (batch, channels, height, width), uint8, or floats where black is 0.
        settings: Which of the two are done; the same images are returned when none is.
        generator: Source of the random placements, on the device of `images`.

    Returns:
        Images of the same shape and type.
    """
    padding = settings.crop_padding
    if padding == 0 and not settings.horizontal_flip:
        return images
    tops, lefts, flips = draw_placements(len(images), settings, generator)
    height, width = images.shape[2:]
    rows = tops[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = lefts[:, None] + torch.where(flips[:, None], columns.flip(0), columns)
    # One gather of flat pixel positions, shared by an image's channels: indexing with four index tensors gives the
    # same and takes five times as long on a CPU.
    positions = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    padded = functional.pad(images, [padding] * 4).flatten(2)
    return padded.gather(2, positions.flatten(1)[:, None, :].expand(-1, images.shape[1], -1)).view(images.shape)


def augment_in_turn(
    images: Tensor, generator: torch.Generator, policies: Sequence[AugmentationSettings | None]
) -> Tensor:
    """`augment` by one policy after another; None is no policy."""
    for settings in policies:
        images = images if settings is None else augment(images, settings, generator)
    return images
