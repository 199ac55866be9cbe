"""Which images are trained and tested on: the section `data` of `params.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo, field_validator

from pipeline.config.streaming import StreamingSettings, TestCrop
from pipeline.core.datasets import DATASETS, DataFacts, numbered
from pipeline.core.values import Location, StrictModel, Whole, is_none, mapping, unknown, unless


def _is_known(value: str) -> str:
    return unless(unknown("data set", [value], list(DATASETS)), value)


DatasetName = Annotated[str, AfterValidator(_is_known)]
STREAMED = tuple(name for name, facts in DATASETS.items() if facts.streamed)
"""Data sets too large for memory: trees of image folders, prepared to shards."""


def facts_of(data: Mapping[str, Any]) -> DataFacts | None:
    """What is known of the images of a raw section `data`; None where that is itself a mistake."""
    name, classes = data.get("name"), data.get("classes")
    known = DATASETS.get(name) if isinstance(name, str) else None
    if known is None or known.classes:
        return known
    return replace(known, classes=numbered(classes)) if type(classes) is int else None


class AugmentationSettings(StrictModel):
    """Random augmentation of training images, drawn anew every epoch."""

    crop_padding: Whole = Field(default=0, ge=0, le=16)
    """Pad with this many zero pixels on each side, then crop back at a random place."""
    horizontal_flip: StrictBool = False
    """Mirror each image with probability 1/2."""


class DataSettings(StrictModel):
    """Which images are trained and tested on."""

    name: DatasetName
    root: Path = Path("data/raw")
    """Where the official files are, or are downloaded to; for streamed images, the folder with `train` and `val`. Not
    part of an experiment's identity."""
    classes: Whole | None = Field(default=None, ge=4, exclude_if=is_none)
    """Number of classes, for `imagefolder` alone: other data sets are known. AutoAttack compares four of them."""
    streaming: StreamingSettings | None = Field(default=None, exclude_if=is_none)
    """For images that are too large for memory, and only for them."""
    train_images: Whole | None = Field(default=None, gt=0)
    """Use only this many training images, a fixed random choice (null: all that are not held out)."""
    held_out_images: Whole = Field(gt=0)
    """Training images that are set aside for model selection and never trained on."""
    replaced_example: Whole | None = Field(default=None, ge=0, exclude_if=is_none)
    """Train on a held-out image instead of the training image at this position (from 0): with the same experiment
    without it, a pair whose training sets differ in one example; see docs/stability.md. Held-out images stay as they
    are."""
    test_images: Whole | None = Field(default=None, gt=0)
    """Use only the first so many test images of a fixed random order (null: all, in the official order)."""
    split_seed: Whole = 0
    """Seed of the split; independent of the experiment's seed, so that every seed sees the same images."""
    augmentation: AugmentationSettings = AugmentationSettings()

    @property
    def facts(self) -> DataFacts:
        """Shape, classes and numbers of the images."""
        known = DATASETS[self.name]
        return known if known.classes else replace(known, classes=numbered(self.classes or 0))

    def judged_on(self, crop: TestCrop | None) -> DataSettings:
        """The same images, with another crop of held-out and test images; None changes nothing."""
        if crop is None or self.streaming is None:
            return self
        return self.model_copy(update={"streaming": self.streaming.model_copy(update={"test_crop": crop})})

    @field_validator("held_out_images")
    @classmethod
    def _leave_training_images(cls, value: int, info: ValidationInfo) -> int:
        name, train_images = info.data.get("name"), info.data.get("train_images") or 1
        known = None if name is None else DATASETS[name].train_images
        if known is not None and value + train_images > known:
            raise ValueError(
                f"{value} + train_images {info.data.get('train_images') or 'of at least 1'} exceed the "
                f"{known} training images of {name}"
            )
        return value

    @field_validator("replaced_example")
    @classmethod
    def _is_trained_on(cls, value: int | None, info: ValidationInfo) -> int | None:
        name, held_out = info.data.get("name"), info.data.get("held_out_images")
        known = None if name is None else DATASETS[name].train_images
        count = info.data.get("train_images")
        if count is None and known is not None and held_out is not None:
            count = known - held_out
        if value is not None and count is not None and value >= count:
            raise ValueError(f"{value} is not among the {count} training images, which count from 0")
        return value

    @field_validator("test_images")
    @classmethod
    def _exist(cls, value: int | None, info: ValidationInfo) -> int | None:
        name = info.data.get("name")
        known = None if name is None else DATASETS[name].test_images
        if known is not None and (value or 0) > known:
            raise ValueError(f"{value} exceed the {known} test images of {name}")
        return value

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """What only some data sets need."""
        name = given.get("name")
        if not isinstance(name, str) or name not in DATASETS:
            return
        needed = {"classes": name == "imagefolder", "streaming": name in STREAMED}
        for key, is_needed in needed.items():
            if is_needed != (given.get(key) is not None):
                yield (key,), f"data set '{name}' {'needs it' if is_needed else 'has none'}"
        if name in STREAMED and mapping(given, "augmentation").get("crop_padding"):
            yield (
                ("augmentation", "crop_padding"),
                "streamed images are cropped at random places without padding; expected 0",
            )
