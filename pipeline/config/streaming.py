"""Images that are streamed from disk, and phases of a training that differ in the sizes of images and batches."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo

from pipeline.core.values import StrictModel, Whole, context, unless

StoredSize = Annotated[Whole, Field(ge=1)] | Literal["original"]
"""The shorter side in pixels that images were reduced to when they were prepared; `original`: they were not."""


class TestCrop(StrictModel):
    """The centre of a test image, which is all that a network sees of it."""

    __test__ = False  # not a test, whatever its name begins with

    size: Whole = Field(ge=1)
    """Side of the square in pixels."""
    resize: Whole | None = Field(ge=1)
    """Shorter side that the image is resized to before (null: the image as it is)."""


class StreamingSettings(StrictModel):
    """How images too large for memory are prepared and read."""

    stored_size: StoredSize
    """What training images are reduced to once, when they are prepared."""
    other_stored_sizes: list[StoredSize] = Field(default=[])
    """Prepared besides, for phases that name one. Not part of an experiment's identity."""
    crop_size: Whole = Field(ge=1)
    """Side of the squares that are trained on, in pixels."""
    test_crop: TestCrop
    """What held-out and test images are cut to."""
    subset_list: Path | None = None
    """Validation images to evaluate on, one path a line (null: 5,000 in a fixed random order)."""
    allow_damaged: StrictBool = False
    """Leave damaged images out when preparing, instead of failing."""
    workers: Whole | None = Field(default=None, ge=0)
    """Processes that read and decode, for each process that trains (null: its share of the cores, at most 16)."""


BOOKKEEPING = {"other_stored_sizes", "subset_list", "allow_damaged", "workers"}
"""Settings of `StreamingSettings` that are no part of an experiment's identity."""


class Phase(StrictModel):
    """From one epoch on, images and batches of another size (progressive resizing; Wong et al., 2020, on ImageNet)."""

    first_epoch: Whole = Field(ge=1)
    batch_size: Whole | None = Field(default=None, ge=1)
    """Null: as without phases."""
    crop_size: Whole | None = Field(default=None, ge=1)
    """Side of the squares that are trained on; null: that of `data.streaming`."""
    stored_size: StoredSize | None = None
    """Which prepared images they are cut from; null: that of `data.streaming`."""


class Sizes(NamedTuple):
    """The sizes that an epoch trains on."""

    batch: int
    """Images, of all processes together."""
    crop: int | None = None
    """Pixels; None where images are not streamed."""
    stored: StoredSize | None = None
    """None where images are not streamed."""


def _check_phases(phases: list[Phase], info: ValidationInfo) -> list[Phase]:
    """Refuse (ValueError) phases out of order or beyond the last epoch, and sizes of images that there are not."""
    first_epochs, problems = [phase.first_epoch for phase in phases], []
    if any(later <= earlier for earlier, later in pairwise(first_epochs)):
        problems.append(f"first epochs must increase strictly, got {first_epochs}")
    last = context(info, "epochs")
    if last is not None and first_epochs and max(first_epochs) > last:
        problems.append(f"first epoch {max(first_epochs)} lies beyond the last epoch {last} (training.epochs)")
    stored = context(info, "stored_sizes")
    for phase in phases if stored is not None else []:
        if not stored and (phase.crop_size or phase.stored_size):
            problems.append("crop_size and stored_size are for images that are streamed, there is no data.streaming")
        elif phase.stored_size is not None and phase.stored_size not in stored:
            problems.append(f"stored_size {phase.stored_size} is not prepared, data.streaming names {stored}")
    return unless(problems, phases)


Phases = Annotated[list[Phase], AfterValidator(_check_phases)]
