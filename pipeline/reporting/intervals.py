"""Differences between experiments with intervals: over other test images, and over other seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import stdev

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.evaluation.statistics import exact_p

Array = NDArray[np.float64]
Verdicts = dict[str, dict[int, pd.DataFrame]]
"""By name of the experiment and seed: a row per test image, a column per attack (or `natural`) that is True where the
image was correct, and NA where it was not attacked."""
REPLICATES = 10_000
"""Samples that the bootstrap draws."""
AT_A_TIME = 1_000
SEED = 0
CONFIDENCE = 0.95
"""The level of every interval."""


@dataclass(frozen=True)
class Estimate:
    """A number in percentage points, with where it would lie with other images and with other seeds."""

    value: float
    """The mean over seeds."""
    images_low: float
    """Lower end of the percentile bootstrap over test images; the same images for all experiments and seeds."""
    images_high: float
    seeds_low: float
    """Lower end of Student's interval over the seeds; NaN with one."""
    seeds_high: float
    images: int
    seeds: int

    @property
    def is_above(self) -> bool:
        """Whether both intervals lie above zero."""
        return self.images_low > 0 and self.seeds_low > 0

    @property
    def is_below(self) -> bool:
        """Whether both lie below it."""
        return self.images_high < 0 and self.seeds_high < 0

    def is_within(self, margin: float) -> bool:
        """Whether both lie nearer to zero than `margin` percentage points."""
        ends = (self.images_low, self.images_high, self.seeds_low, self.seeds_high)
        return all(abs(end) < margin for end in ends)


def difference(accuracies: Array) -> Array:
    """The first experiment minus the second, in the mean of all views."""
    return np.asarray(accuracies[..., 0, :].mean(-1) - accuracies[..., 1, :].mean(-1))


@dataclass(frozen=True)
class Contrast:
    """A number that is made of accuracies."""

    experiments: tuple[str, ...]
    """Their names."""
    views: tuple[tuple[str, ...], ...]
    """Attacks (or `natural`); of several together, an image must be correct under all."""
    value: Callable[[Array], Array] = difference
    """Accuracies in percent, (..., experiments, views), to the number, (...)."""


def between_views(accuracies: Array) -> Array:
    """The first view minus the second, of one experiment."""
    return np.asarray(accuracies[..., 0, 0] - accuracies[..., 0, 1])


def above_line(accuracies: Array) -> Array:
    """How far the first experiment lies above the line through the others, in the plane of two views.

    The line goes through what two methods reach, a and b; the distance is the shortest to it, in percentage points,
    positive on the side where both accuracies grow. NaN where a and b are the same point.
    """
    point, a, b = (accuracies[..., number, :] for number in range(3))
    along, from_a = b - a, point - a
    cross = along[..., 1] * from_a[..., 0] - along[..., 0] * from_a[..., 1]
    side = np.where(along[..., 1] - along[..., 0] >= 0, 1.0, -1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(side * cross / np.hypot(along[..., 0], along[..., 1]))


def above_frontier(accuracies: Array) -> Array:
    """How much more of the second view the first experiment has than others have at its accuracy in the first view.

    The others are joined by straight lines, in the order of their first view; NaN where none of these reaches it.
    """
    point, others = accuracies[..., 0, :], accuracies[..., 1:, :]
    others = np.take_along_axis(others, others[..., :1].argsort(axis=-2), axis=-2)
    left, right, place = others[..., :-1, :], others[..., 1:, :], point[..., None, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (place - left[..., 0]) / (right[..., 0] - left[..., 0])
        reached = left[..., 1] + share * (right[..., 1] - left[..., 1])
    highest = np.where((share >= 0) & (share <= 1), reached, -np.inf).max(-1)
    return np.asarray(np.where(np.isfinite(highest), point[..., 1] - highest, np.nan))


def estimate(verdicts: Verdicts, contrast: Contrast) -> Estimate | None:
    """A contrast and its intervals, from the seeds and images that all its experiments have; None where one of them
    or a view was not measured.

    Two intervals instead of one: with three seeds, how seeds vary is known so badly that it must not hide in a sum.
    """
    correct = _stack(verdicts, contrast)
    if correct is None:
        return None
    by_seed = contrast.value(100 * correct.mean(axis=1))
    tail = 50 * (1 - CONFIDENCE)
    low, high = (float(end) for end in np.percentile(_bootstrap(correct, contrast), [tail, 100 - tail]))
    mean, half = float(by_seed.mean()), half_width(by_seed.tolist())
    return Estimate(mean, low, high, mean - half, mean + half, correct.shape[1], correct.shape[0])


def _stack(verdicts: Verdicts, contrast: Contrast) -> Array | None:
    """Whether images were correct: (seeds, images, experiments, views), 0 or 1."""
    by_seed = [verdicts.get(name, {}) for name in contrast.experiments]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    attacks = sorted({attack for view in contrast.views for attack in view})
    frames = [[own[seed].reindex(columns=attacks).dropna() for own in by_seed] for seed in seeds]
    shared = set.intersection(*(set(frame.index) for of_seed in frames for frame in of_seed)) if frames else set()
    if not shared:
        return None
    images = sorted(shared)
    correct = [[_views(frame.loc[images], contrast.views) for frame in of_seed] for of_seed in frames]
    return np.moveaxis(np.asarray(correct, dtype=np.float64), 1, 2)


def _views(frame: pd.DataFrame, views: tuple[tuple[str, ...], ...]) -> Array:
    return np.stack([frame[list(view)].to_numpy(dtype=bool).all(axis=1) for view in views], axis=-1).astype(np.float64)


def _bootstrap(correct: Array, contrast: Contrast) -> Array:
    """The number for images drawn anew, as many with replacement; mean over seeds, (REPLICATES,)."""
    seeds, images, *rest = correct.shape
    by_image = np.moveaxis(correct, 1, 0).reshape(images, -1)
    drawn = np.concatenate([times @ by_image / images for times in _draws(images)])
    accuracies = 100 * drawn.reshape(REPLICATES, seeds, *rest)
    return np.asarray(contrast.value(accuracies).mean(axis=1))


@cache
def _draws(images: int) -> list[NDArray[np.uint8]]:
    """How often each image is drawn in each replicate, `AT_A_TIME` replicates a piece; the same for every contrast."""
    generator, offsets, pieces = np.random.default_rng(SEED), images * np.arange(AT_A_TIME)[:, None], []
    for _ in range(REPLICATES // AT_A_TIME):
        places = generator.integers(images, size=(AT_A_TIME, images)) + offsets
        times = np.bincount(places.ravel(), minlength=AT_A_TIME * images)
        pieces.append(times.reshape(AT_A_TIME, images).astype(np.uint8))
    return pieces


def like_best(verdicts: Verdicts, names: Sequence[str], views: tuple[tuple[str, ...], ...]) -> set[str]:
    """The best of several experiments in the mean of all views, and those that cannot be told from it on the images and
    seeds that all of them have; none where a view was not measured.

    One seed in one view: McNemar's exact test. Otherwise as `Estimate.is_above`: a difference that both intervals put
    above zero.
    """
    contrast = Contrast(tuple(names), views, lambda accuracies: np.asarray(accuracies.mean(-1)))
    correct = _stack(verdicts, contrast)
    if correct is None:
        return set()
    by_seed = 100 * correct.mean(axis=(1, 3))
    best = int(by_seed.mean(axis=0).argmax())
    if len(by_seed) == len(views) == 1:
        right = correct[0, :, :, 0].astype(int)
        counts = zip(right[:, best] @ (1 - right), (1 - right[:, best]) @ right, strict=True)
        apart = [exact_p(int(only_best), int(only_other)) < 1 - CONFIDENCE for only_best, only_other in counts]
    else:
        drawn, over_seeds = _bootstrap(correct, contrast), by_seed[:, [best]] - by_seed
        low = np.percentile(drawn[:, [best]] - drawn, 50 * (1 - CONFIDENCE), axis=0)
        apart = [
            bool(end > 0) and not own.mean() - half_width(own.tolist()) <= 0  # NaN with one seed
            for end, own in zip(low, over_seeds.T, strict=True)
        ]
    return {name for name, is_apart in zip(names, apart, strict=True) if not is_apart}


def by_image(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Whether each image was correct under each attack, of verdicts as `evaluate` writes them: as `Verdicts` has it."""
    wide = verdicts.pivot(index="image", columns="attack", values="correct")
    wide.columns = [str(name) for name in wide.columns]
    return wide.astype("boolean").sort_index(axis="columns")


def half_width(values: Sequence[float]) -> float:
    """Half the width of Student's interval for the mean of few values; NaN with one."""
    from scipy.stats import t

    if len(values) < 2:
        return float("nan")
    return float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def bracketed(low: float, high: float) -> str:
    """An interval of differences as pages show it."""
    return "--" if math.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"
