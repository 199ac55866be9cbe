"""How many decimals are worth showing."""

from __future__ import annotations

import math


def decimals(images: int) -> int:
    """How many decimals of an accuracy in percent so many images can tell: the last one is the first digit of the
    largest standard error.

    >>> [decimals(images) for images in (64, 300, 2_500, 10_000, 50_000)]
    [0, 0, 0, 1, 1]
    """
    return max(0, -math.floor(math.log10(50 / math.sqrt(images))))
