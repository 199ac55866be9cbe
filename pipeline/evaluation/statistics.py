"""How far a number from finitely many images can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import pandas as pd

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided interval of 95 %."""


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927) for a share of `count` images.

    For a mean of shares of the same images (the paper's Union) it is conservative: no variable in [0, 1] with that mean
    varies more than a binary one.

    Args:
        share: In [0, 1].
        count: Number of images, at least 1.

    Returns:
        Lower and upper end, in [0, 1].
    """
    squared = Z_95**2 / count
    centre = (share + squared / 2) / (1 + squared)
    half = Z_95 * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same images under the same attack."""

    images: int
    only_first: int
    """Images that only the first method gets right."""
    only_second: int
    p_value: float
    """McNemar's exact test: how likely a difference at least this large is if neither method is better."""


def mcnemar(first: pd.Series, second: pd.Series) -> Comparison:
    """McNemar's exact test (1947) on the images that both methods were attacked on.

    Args:
        first: Whether each image is correct, indexed by image.
        second: Likewise, of the other method.
    """
    both = pd.concat([first, second], axis=1, join="inner", keys=["first", "second"])
    only_first = int((both["first"] & ~both["second"]).sum())
    only_second = int((both["second"] & ~both["first"]).sum())
    return Comparison(len(both), only_first, only_second, exact_p(only_first, only_second))


@cache
def exact_p(only_first: int, only_second: int) -> float:
    """The p-value of McNemar's exact test, of how many images only one and only the other method gets right."""
    from scipy.stats import binomtest

    different = only_first + only_second
    return float(binomtest(only_first, different, 0.5).pvalue) if different else 1.0


def class_accuracies(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Accuracy under every attack for every class.

    Args:
        verdicts: As written by `evaluate`.

    Returns:
        `attack`, `label`, `images`, `accuracy` in [0, 1], and its interval `low`, `high`.
    """
    groups = verdicts.groupby(["attack", "label"], observed=True)["correct"]
    frame = groups.agg(images="count", accuracy="mean").reset_index()
    intervals = [
        wilson(share, count) for share, count in zip(frame["accuracy"], frame["images"].astype(int), strict=True)
    ]
    return frame.assign(low=[low for low, _ in intervals], high=[high for _, high in intervals])
