"""Data sets of torchvision, or of anything that gives pairs of an image and a label: `package.module:name`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.config import DataSettings
from pipeline.core.errors import RequestError
from pipeline.core.extensions import imported
from pipeline.data.decoding import DamagedImage, to_eight_bits
from pipeline.data.images import ImageSet
from pipeline.data.own.arrays import channels_first, to_bytes
from pipeline.data.own.base import OwnData, Pixels, Size, check_labels, labels_of, put_together, split_off, to_pixels

GIVES = "expected (training images, test images), or one of them, as a sequence of pairs (image, label)"
Pairs = Sequence[tuple[Any, Any]]


def call_factory(settings: DataSettings) -> OwnData:
    """All images that the function or class `data.name` gives for `data.root`; see `read_own`."""
    name = settings.name
    made = _made(name, settings.root)
    parts = [_read(part, settings.size, name) for part in made]
    channels = max(part.images.shape[1] for part in parts)
    whole, *tests = [ImageSet(one.images.expand(-1, channels, -1, -1).contiguous(), one.labels) for one in parts]
    count = check_labels([label for part in parts for label in part.labels.tolist()], name)
    classes = _class_names(made[0], count)
    return OwnData(whole, tests[0], classes) if tests else split_off(whole, classes, settings.split_seed)


def _made(name: str, root: Path) -> Sequence[Pairs]:
    """What the function or class gives: one or two sequences."""
    try:
        factory: Callable[..., Any] = imported(name)
    except (ImportError, AttributeError) as error:
        raise RequestError(f"data.name: '{name}' cannot be imported ({error})") from None
    if not callable(factory):
        raise RequestError(f"data.name: '{name}' cannot be called, expected a function or class; {GIVES}")
    try:
        given = [factory(root, **choice) for choice in _choices(factory, name)]
    except RequestError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"data.name: '{name}' fails for data.root {root}: {said}") from error
    made = given[0] if len(given) == 1 and _are_parts(given[0]) else given
    if len(made) not in (1, 2) or not all(hasattr(part, "__getitem__") and hasattr(part, "__len__") for part in made):
        raise RequestError(f"data.name: '{name}' gives {_told(given[0])}; {GIVES}")
    return made


def _are_parts(given: Any) -> bool:
    """Whether it is training and test images, a tuple, or a list as of `random_split`, not one sequence of pairs."""
    return isinstance(given, tuple) or (
        isinstance(given, list) and len(given) == 2 and not any(isinstance(part, tuple | list) for part in given)
    )


def _choices(factory: Callable[..., Any], name: str) -> list[dict[str, Any]]:
    """How a factory is called: as torchvision's classes are, once for each part, or once with the root alone."""
    parameters = inspect.signature(factory).parameters
    if "train" in parameters:
        return [{"train": True}, {"train": False}]
    if "split" in parameters:
        return [{"split": "train"}, {"split": "test"}]
    if "root" not in parameters and isinstance(factory, type):
        raise RequestError(
            f"data.name: '{name}' takes no root; write a function of your own that is called with data.root and "
            "returns (training images, test images)"
        )
    return [{}]


def _read(part: Pairs, size: Size, name: str) -> ImageSet:
    labels: list[Any] = []

    def pixels() -> Iterator[tuple[str, Pixels]]:
        for position in range(len(part)):
            try:
                item = part[position]
            except Exception as error:  # other people's code: anything may come of it
                said = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise RequestError(f"data.name: '{name}', item {position} cannot be had: {said}") from error
            try:
                image, label = item
            except (TypeError, ValueError):
                raise RequestError(f"data.name: '{name}', item {position}: is no pair (image, label)") from None
            labels.append(label)
            yield f"item {position}", _pixels(image, size, f"data.name: '{name}', image {position}")

    if not len(part):
        raise RequestError(f"data.name: '{name}' gives no images")
    images = put_together(pixels(), len(part))
    return ImageSet(images, torch.tensor(labels_of(np.asarray(labels), f"data.name: '{name}'")))


def _pixels(image: Any, size: Size, what: str) -> Pixels:
    """An image of Pillow, an array or a tensor as (height, width) or (height, width, 3)."""
    if isinstance(image, Image.Image):
        try:
            return to_pixels(to_eight_bits(image), size)
        except DamagedImage as error:
            raise RequestError(f"{what}: {error}") from None
    values = to_bytes(np.asarray(image), what)
    first = channels_first(values[None], what)[0]
    plain = np.ascontiguousarray(first[0] if len(first) == 1 else first.transpose(1, 2, 0))
    return to_pixels(Image.fromarray(plain), size)


def _class_names(part: Any, count: int) -> tuple[str, ...]:
    given = getattr(part, "classes", None) or getattr(getattr(part, "dataset", None), "classes", None)
    if isinstance(given, list | tuple) and len(given) == count and all(isinstance(name, str) for name in given):
        return tuple(given)
    return tuple(map(str, range(count)))


def _told(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple) else f"a {type(value).__name__}"
