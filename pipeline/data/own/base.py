"""What all sources of one's own images share: how they are put together, split, and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.config.data import MOST_CLASSES, Side
from pipeline.core.errors import RequestError
from pipeline.core.machine import free_memory
from pipeline.core.streams import stream
from pipeline.data.images import ImageSet

Size = Side | tuple[Side, Side] | None
Pixels = NDArray[np.uint8]
"""One image: (height, width) where it is grey, (height, width, 3) where it is not."""
TEST_SHARE = 5
"""One image in so many of each class is tested on, where there is no test set."""
COPIES = 2
"""The images, and the same as a file that is about to be written."""
NAMED = 5
"""So many of what is wrong are named."""
GIGABYTE = 10**9


@dataclass(frozen=True)
class OwnData:
    """All images of a data set."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    """Their names, by label."""


def to_pixels(image: Image.Image, size: Size) -> Pixels:
    """An image in mode L or RGB, resized to cover `size` and cut to its middle; with None as it is."""
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        # Pillow's bilinear filter widens with the reduction: it is antialiased.
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def resized(images: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Images (count, 1 or 3, height, width) as `to_pixels` resizes each."""
    if size is None:
        return images
    plain = (one[0] if len(one) == 1 else one.transpose(1, 2, 0) for one in images)
    found = np.stack([to_pixels(Image.fromarray(np.ascontiguousarray(one)), size) for one in plain])
    return found[:, None] if found.ndim == 3 else found.transpose(0, 3, 1, 2)


def put_together(images: Iterable[tuple[str, Pixels]], count: int) -> Tensor:
    """Named images as one tensor (count, channels, height, width), uint8: of one channel where all of them are grey.

    Raises:
        RequestError: they are of different sizes, or too many for the memory.
    """
    kept: list[Pixels] = []
    sizes: Counter[tuple[int, ...]] = Counter()
    examples: dict[tuple[int, ...], str] = {}
    for name, pixels in images:
        side = pixels.shape[:2]
        if not kept:
            check_memory(count, (pixels.ndim if pixels.ndim == 3 else 1, *side))
        sizes[side] += 1
        examples.setdefault(side, name)
        if len(sizes) == 1:
            kept.append(pixels)
    if len(sizes) > 1:
        shown = ", ".join(
            f"{height} x {width} ({times}, for example {examples[height, width]})"
            for (height, width), times in sizes.most_common(3)
        )
        often = sizes.most_common(1)[0][0]
        raise RequestError(
            f"images have {len(sizes)} sizes (height x width): {shown}. Say what they are resized to, without "
            f"distortion: data.size={often[0]} for squares, or data.size=[{often[0]},{often[1]}]"
        )
    channels = max(pixels.shape[2] if pixels.ndim == 3 else 1 for pixels in kept)
    whole = np.empty((len(kept), channels, *kept[0].shape[:2]), np.uint8)
    for place, pixels in enumerate(kept):
        whole[place] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(whole)


def check_memory(count: int, shape: Sequence[int]) -> None:
    """Refuse (RequestError) more images than fit into memory with the copy that is written."""
    needed, free = COPIES * count * int(np.prod(shape)), free_memory()
    if needed > free:
        raise RequestError(
            f"{count:,} images of {' x '.join(map(str, shape))} take {needed / GIGABYTE:.1f} GB to prepare, "
            f"{free / GIGABYTE:.1f} GB are free. Give a smaller data.size, or data.name=imagefolder with "
            "suite imagenet's data.streaming, which reads them from disk"
        )


def split_off(images: ImageSet, names: tuple[str, ...], seed: int) -> OwnData:
    """Images of which one in five of each class, at random, is tested on.

    Each class is drawn from a stream of its own, so that a class that is added changes no other's.

    Raises:
        RequestError: a class has a single image, or a name that is no text.
    """
    check_names(names)
    train, test = [], []
    for label, name in enumerate(names):
        members = (images.labels == label).nonzero().flatten()
        if len(members) == 1:
            raise RequestError(f"class {name}: has a single image; one to train on and one to test on are needed")
        order = members[torch.randperm(len(members), generator=stream(seed, "test of", name))]
        count = max(1, round(len(members) / TEST_SHARE))
        test.append(order[:count])
        train.append(order[count:])
    trained, tested = (images.subset(torch.cat(places).sort().values) for places in (train, test))
    return OwnData(trained, tested, names)


def check(found: OwnData) -> None:
    """Refuse (RequestError) what no classifier can be trained and tested on."""
    count = len(found.classes)
    if not 2 <= count <= MOST_CLASSES:
        what = "class" if count == 1 else "classes"
        raise RequestError(f"the data has {count} {what} ({named(found.classes)}), expected 2 to {MOST_CLASSES:,}")
    check_names(found.classes)
    train, test = found.train.images.shape[1:], found.test.images.shape[1:]
    if train != test:
        raise RequestError(
            f"training images are {' x '.join(map(str, train))} (channels, height, width), test images "
            f"{' x '.join(map(str, test))}; expected the same. data.size resizes both"
        )
    if int(found.train.images.max()) <= 1:
        raise RequestError("no value of the training images is more than 1 of 255: multiply them by 255")
    for part, images in (("train", found.train), ("test", found.test)):
        missing = (torch.bincount(images.labels, minlength=count) == 0).nonzero().flatten().tolist()
        if missing:
            names = [found.classes[label] for label in missing]
            raise RequestError(
                f"the {part} images have none of {len(names)} of {count} classes: {named(names)}. Add some, or leave "
                "these classes out"
            )


def check_names(classes: Sequence[str]) -> None:
    """Refuse (RequestError) names of classes that no table could show."""
    if len(set(classes)) < len(classes):
        raise RequestError(f"class names are not all different: {named(classes)}")
    if odd := [repr(name) for name in classes if not name.strip() or not name.isprintable()]:
        raise RequestError(f"class names are no text that can be shown: {named(odd)}; rename these classes")


def labels_of(labels: NDArray[np.generic], what: str) -> list[int]:
    """Labels from 0 on, as Python's integers.

    Raises:
        RequestError: they are no whole numbers, or negative.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        hint = "; argmax(1) makes labels of one-hot rows" if labels.ndim == 2 else ""
        if labels.dtype.kind in "USO":
            hint = "; numpy.unique(labels, return_inverse=True)[1] numbers them"
        elif labels.dtype.kind == "f":
            hint = hint or "; astype(int) makes whole numbers of them"
        raise RequestError(
            f"{what}: labels are of type {labels.dtype} and shape {labels.shape}, expected whole numbers and "
            f"(images,){hint}"
        )
    return [int(label) for label in labels]


def check_labels(labels: Iterable[int], what: str) -> int:
    """The number of classes, whose labels are 0, 1, 2, ...

    Raises:
        RequestError: labels begin with another number or have gaps; the way out says how to number them anew.
    """
    present = sorted(set(labels))
    if not present:
        raise RequestError(f"{what}: has no images")
    if present == list(range(len(present))):
        return len(present)
    known, lacking = set(present), present[-1] + 1 - len(present)
    first = [str(label) for label in islice((label for label in count() if label not in known), NAMED)]
    more = f" and {lacking - NAMED:,} more" if lacking > NAMED else ""
    gaps = f", without {', '.join(first[:lacking])}{more}" if lacking and present[0] >= 0 else ""
    raise RequestError(
        f"{what}: labels are {present[0]} to {present[-1]}{gaps}; expected 0 to {len(present) - 1}, every one of them. "
        "numpy.unique(labels, return_inverse=True)[1] numbers them so"
    )


def named(names: Sequence[str]) -> str:
    """The first five, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
