"""Which images are trained and tested on: the section `data` of `params.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool, ValidationError, ValidationInfo, field_validator

from pipeline.config.streaming import StreamingSettings, TestCrop
from pipeline.core.datasets import DATASETS, OWN, DataFacts, is_own, numbered
from pipeline.core.errors import RequestError
from pipeline.core.values import Location, StrictModel, Whole, is_none, mapping, unique, unknown, unless

MOST_CLASSES = 1000
LOOK = "'python -m stages.prepare --accept' looks at the images and writes what they are to params.yaml"


def _is_known(value: str) -> str:
    return value if is_own(value) else unless(unknown("data set", [value], [*DATASETS, *OWN, "module:function"]), value)


DatasetName = Annotated[str, AfterValidator(_is_known)]
STREAMED = tuple(name for name, facts in DATASETS.items() if facts.streamed)
"""Data sets too large for memory: trees of image folders, prepared to shards."""


Side = Annotated[Whole, Field(ge=1)]


class Found(StrictModel):
    """What images of one's own are. It is written by the program that looked at them, and the images that are prepared
    are held to it: with its digest, results of other images have another fingerprint."""

    classes: Annotated[list[str], AfterValidator(unique)] = Field(min_length=2, max_length=MOST_CLASSES)
    """Their names, by label."""
    shape: tuple[Side, Side, Side] | None = None
    """Channels, height, width; null for `imagefolder`, which the section `streaming` says."""
    train_images: Side | None = None
    """Held-out ones among them; null for `imagefolder`."""
    test_images: Side | None = None
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{16}$")
    """The digest of all prepared images and labels; null for `imagefolder`, which is not read before it is prepared."""


def _facts(name: str, classes: int | None, found: Found | None) -> DataFacts | None:
    """What is known of the images of a data set; None where nobody has looked at them."""
    if name in DATASETS and DATASETS[name].classes:
        return DATASETS[name]
    if found is not None and found.shape is not None:
        names, (channels, height, width) = tuple(found.classes), found.shape
        return DataFacts(channels, height, width, names, found.train_images, found.test_images)
    names = tuple(found.classes) if found is not None else numbered(classes or 0)
    return replace(DATASETS["imagefolder"], classes=names) if name == "imagefolder" and names else None


def facts_of(data: Mapping[str, Any]) -> DataFacts | None:
    """What is known of the images of a raw section `data`; None where that is itself a mistake, or not known yet."""
    name, classes = data.get("name"), data.get("classes")
    try:
        found = Found.model_validate(data["found"]) if data.get("found") is not None else None
    except ValidationError:
        return None
    return _facts(name, classes if type(classes) is int else None, found) if isinstance(name, str) else None


def batch_problems(data: Mapping[str, Any], batch_size: Any) -> Iterator[str]:
    """What is wrong with minibatches of so many images of one's own, given the raw section `data`."""
    name, facts, held_out = data.get("name"), facts_of(data), data.get("held_out_images")
    if facts is None or facts.train_images is None or not is_own(str(name)):
        return
    if type(batch_size) is not int or batch_size < 1 or type(held_out) is not int:
        return
    left = facts.train_images - held_out
    trained_on = min(left, data["train_images"]) if type(data.get("train_images")) is int else left
    if 0 < trained_on < batch_size:
        yield f"{batch_size} is more than the {trained_on} images that are trained on; expected {trained_on} at most"
    elif trained_on > 1 and trained_on % batch_size == 1:
        yield (
            f"the {trained_on} images that are trained on leave a last minibatch of one, which BatchNorm knows no "
            f"spread of; take another one than {batch_size}, or data.held_out_images {held_out + 1}"
        )


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
    classes: Whole | None = Field(default=None, ge=2, le=MOST_CLASSES, exclude_if=is_none)
    """Number of classes of `imagefolder`, where `found` does not say them."""
    found: Found | None = Field(default=None, exclude_if=is_none)
    """What images of one's own are; nobody writes it by hand."""
    size: Side | tuple[Side, Side] | None = Field(default=None, exclude_if=is_none)
    """What images of one's own are resized to, without distortion: a side, or height and width in pixels (null: they
    all have the same size, and keep it)."""
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
        """Shape, classes and numbers of the images.

        Raises:
            RequestError: nobody has looked at them.
        """
        known = _facts(self.name, self.classes, self.found)
        if known is None:
            raise RequestError(f"data.found: is missing, data set '{self.name}' is not known; {LOOK}")
        return known

    @property
    def is_own(self) -> bool:
        """Whether the images are one's own and whole in memory."""
        return is_own(self.name)

    def judged_on(self, crop: TestCrop | None) -> DataSettings:
        """The same images, with another crop of held-out and test images; None changes nothing."""
        if crop is None or self.streaming is None:
            return self
        return self.model_copy(update={"streaming": self.streaming.model_copy(update={"test_crop": crop})})

    @field_validator("held_out_images")
    @classmethod
    def _leave_training_images(cls, value: int, info: ValidationInfo) -> int:
        name, train_images = info.data.get("name"), info.data.get("train_images") or 1
        known = _number(info, "train_images")
        if known is not None and value + train_images > known:
            raise ValueError(
                f"{value} + train_images {info.data.get('train_images') or 'of at least 1'} exceed the "
                f"{known} training images of {name}"
            )
        return value

    @field_validator("replaced_example")
    @classmethod
    def _is_trained_on(cls, value: int | None, info: ValidationInfo) -> int | None:
        held_out, known = info.data.get("held_out_images"), _number(info, "train_images")
        count = info.data.get("train_images")
        if count is None and known is not None and held_out is not None:
            count = known - held_out
        if value is not None and count is not None and value >= count:
            raise ValueError(f"{value} is not among the {count} training images, which count from 0")
        return value

    @field_validator("test_images")
    @classmethod
    def _exist(cls, value: int | None, info: ValidationInfo) -> int | None:
        name, known = info.data.get("name"), _number(info, "test_images")
        if known is not None and (value or 0) > known:
            raise ValueError(f"{value} exceed the {known} test images of {name}")
        return value

    @field_validator("augmentation")
    @classmethod
    def _fits_into_images(cls, value: AugmentationSettings, info: ValidationInfo) -> AugmentationSettings:
        found = info.data.get("found")
        side = min(found.shape[1:]) if found is not None and found.shape is not None else None
        if side is not None and value.crop_padding * 2 > side:
            raise ValueError(
                f"crop_padding {value.crop_padding} is more than half of the {side} pixels that images have, most of "
                f"a crop could be padding; expected {side // 2} at most"
            )
        return value

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """What only some data sets need."""
        name = given.get("name")
        if not isinstance(name, str) or not (name in DATASETS or is_own(name)):
            return
        if (name in STREAMED) != (given.get("streaming") is not None):
            yield ("streaming",), f"data set '{name}' {'needs it' if name in STREAMED else 'has none'}"
        may_have = {
            "classes": name == "imagefolder",
            "found": name == "imagefolder" or is_own(name),
            "size": is_own(name),
        }
        for key, may in may_have.items():
            if not may and given.get(key) is not None:
                yield (key,), f"data set '{name}' has none"
        if name in STREAMED and mapping(given, "augmentation").get("crop_padding"):
            yield (
                ("augmentation", "crop_padding"),
                "streamed images are cropped at random places without padding; expected 0",
            )


def _number(info: ValidationInfo, what: str) -> int | None:
    """How many images there are, `train_images` or `test_images`; None where that is not known."""
    name, classes, found = (info.data.get(key) for key in ("name", "classes", "found"))
    facts = None if name is None else _facts(name, classes, found)
    return None if facts is None else getattr(facts, what)
