"""What is fixed about each data set: shapes, classes, sizes. Free of torch, so that settings can be checked fast."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DataFacts:
    """Images of one data set: (channels, height, width) with values in [0, 1] after division by 255."""

    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    """Their names by label; empty where only the settings know."""
    train_images: int | None
    """None where only the files know."""
    test_images: int | None
    streamed: bool = False
    """Too large for memory: a tree of image folders, prepared to shards."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.channels, self.height, self.width


DIGITS = tuple(str(digit) for digit in range(10))
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# fmt: off
CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on


def numbered(classes: int) -> tuple[str, ...]:
    """Names of classes that have none: class_0000, class_0001, ..."""
    return tuple(f"class_{number:04d}" for number in range(classes))


IMAGENET = numbered(1000)
"""ILSVRC2012 in the order of its folders (n01440764, ...), whose names are in the manifest of the prepared images."""

DATASETS: dict[str, DataFacts] = {
    "digits": DataFacts(1, 8, 8, DIGITS, 1437, 360),
    "cifar10": DataFacts(3, 32, 32, CIFAR10, 50_000, 10_000),
    "cifar100": DataFacts(3, 32, 32, CIFAR100, 50_000, 10_000),
    "mnist": DataFacts(1, 28, 28, DIGITS, 60_000, 10_000),
    "svhn": DataFacts(3, 32, 32, DIGITS, 73_257, 26_032),
    # Of the 50,000 validation images, those that the field evaluates on.
    "imagenet": DataFacts(3, 224, 224, IMAGENET, 1_281_167, 5_000, streamed=True),
    "imagefolder": DataFacts(3, 224, 224, (), None, None, streamed=True),
}

OWN = ("images", "arrays")
"""Data sets of one's own: folders of images, arrays in one file. A third kind is named 'package.module:function'."""
FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Whether a data set is one's own and whole in memory: what it holds is not known before somebody looks."""
    return name in OWN or FACTORY.fullmatch(name) is not None
