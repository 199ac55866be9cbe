"""Contrasts of accuracies: their geometry, and intervals that are as wide as theory has them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.reporting.intervals import (
    Contrast,
    Verdicts,
    above_frontier,
    above_line,
    between_views,
    difference,
    estimate,
    half_width,
    like_best,
)

NAN = float("nan")
percent = st.integers(0, 100).map(float)
place = st.tuples(percent, percent)


def frame(**correct: Sequence[bool | None]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.array(list(values), dtype="boolean") for name, values in correct.items()})


def drawn(images: int, seeds: int, share: float, seed: int) -> dict[int, pd.DataFrame]:
    generator = np.random.default_rng(seed)
    return {one: frame(natural=(generator.random(images) < share).tolist()) for one in range(1, seeds + 1)}


@pytest.mark.parametrize(
    ("point", "distance"),
    [((75.0, 25.0), 0.0), ((95.0, 5.0), 0.0), ((85.0, 25.0), math.sqrt(50)), ((75.0, 15.0), -math.sqrt(50))],
)
def test_the_distance_is_that_to_the_line_and_positive_above(point: tuple[float, float], distance: float) -> None:
    ends = [(95.0, 5.0), (55.0, 45.0)]
    assert above_line(np.array([point, *ends])) == pytest.approx(distance)


@given(point=place, a=place, b=place, shift=percent)
def test_the_line_has_no_direction_and_no_origin(
    point: tuple[float, float], a: tuple[float, float], b: tuple[float, float], shift: float
) -> None:
    # A line from corner to corner of the same accuracy gains nothing on either side: there is no above.
    assume(a != b and b[1] - a[1] != b[0] - a[0])
    there, back = above_line(np.array([point, a, b])), above_line(np.array([point, b, a]))
    assert there == pytest.approx(back, abs=1e-9)
    assert above_line(np.array([point, a, b]) + shift) == pytest.approx(there, abs=1e-9)


def test_a_line_through_one_point_is_none() -> None:
    assert math.isnan(above_line(np.array([(3.0, 4.0), (1.0, 1.0), (1.0, 1.0)])))


FRONTIER = [(60.0, 40.0), (80.0, 20.0), (70.0, 35.0)]


@pytest.mark.parametrize(
    ("point", "more"),
    [((60, 41), 1), ((65, 40), 2.5), ((75, 20), -7.5), ((80, 20), 0), ((59.9, 99), NAN), ((80.1, 99), NAN)],
)
def test_above_a_frontier_at_the_same_first_accuracy(point: tuple[float, float], more: float) -> None:
    """Joined in the order of natural accuracy, however they are listed; no statement beyond its ends."""
    assert above_frontier(np.array([point, *FRONTIER])) == pytest.approx(more, nan_ok=True)
    many = above_frontier(np.array([[point, *FRONTIER], [(60, 40), *reversed(FRONTIER)]]))
    assert many == pytest.approx([more, 0], nan_ok=True)


@given(st.lists(place, min_size=2, max_size=2))
def test_differences_are_between_experiments_or_between_views(accuracies: list[tuple[float, float]]) -> None:
    (a, b), (c, d) = accuracies
    assert difference(np.array(accuracies)) == pytest.approx((a + b) / 2 - (c + d) / 2)
    assert between_views(np.array(accuracies[:1])) == pytest.approx(a - b)


def test_students_interval_of_three() -> None:
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert math.isnan(half_width([1.0]))


def test_intervals_are_as_wide_as_theory_has_them() -> None:
    images = 800
    verdicts: Verdicts = {"first": drawn(images, 1, 0.6, 1), "second": drawn(images, 1, 0.5, 2)}
    found = estimate(verdicts, Contrast(("first", "second"), (("natural",),), difference))
    assert found is not None
    first, second = (verdicts[name][1]["natural"].to_numpy(dtype=float) for name in ("first", "second"))
    assert found.value == pytest.approx(100 * (first - second).mean())
    half = 1.96 * 100 * (first - second).std() / math.sqrt(images)
    assert found.images_high - found.images_low == pytest.approx(2 * half, rel=0.05)
    assert (found.images_high + found.images_low) / 2 == pytest.approx(found.value, abs=0.3)
    assert math.isnan(found.seeds_low) and found.seeds == 1 and found.images == images


def test_images_are_paired() -> None:
    same = drawn(300, 3, 0.5, 3)
    found = estimate({"first": same, "second": same}, Contrast(("first", "second"), (("natural",),), difference))
    assert found is not None
    assert (found.value, found.images_low, found.images_high, found.seeds_low, found.seeds_high) == (0, 0, 0, 0, 0)
    assert not found.is_above and not found.is_below


def test_the_interval_over_seeds_is_that_of_the_seeds_numbers() -> None:
    right = {seed: frame(natural=[True] * (50 + seed) + [False] * (50 - seed)) for seed in (1, 2, 3)}
    wrong = {seed: frame(natural=[False] * 100) for seed in (1, 2, 3, 4)}
    found = estimate({"right": right, "wrong": wrong}, Contrast(("right", "wrong"), (("natural",),), difference))
    assert found is not None and found.seeds == 3
    assert found.value == pytest.approx(52)
    assert found.seeds_high - found.value == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.is_above


def test_only_images_that_every_view_has_count_and_several_attacks_together_are_the_worst_case() -> None:
    one = frame(natural=[True, True, False, True], a=[True, False, True, None], b=[False, True, True, None])
    verdicts = {"one": {1: one}, "other": {1: frame(natural=[False] * 4, a=[False] * 4, b=[False] * 4)}}

    def value(*views: tuple[str, ...]) -> float:
        found = estimate(verdicts, Contrast(("one", "other"), views, difference))
        assert found is not None
        return found.value

    assert value(("natural",)) == 75
    assert value(("a",)) == pytest.approx(200 / 3)
    assert value(("a",), ("b",)) == pytest.approx(200 / 3)
    assert value(("a", "b")) == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    "contrast",
    [
        Contrast(("one", "missing"), (("natural",),), difference),
        Contrast(("one", "one"), (("pgd",),), difference),
        Contrast(("one", "other"), (("natural",),), difference),
    ],
)
def test_what_is_not_there_gives_no_number(contrast: Contrast) -> None:
    verdicts = {"one": {1: frame(natural=[True])}, "other": {2: frame(natural=[True])}}
    assert estimate(verdicts, contrast) is None


def right(count: int, images: int = 100) -> pd.DataFrame:
    """The first `count` images under two attacks."""
    correct = [place < count for place in range(images)]
    return frame(natural=correct, pgd=correct)


def test_like_the_best_is_what_mcnemars_test_does_not_tell_from_it() -> None:
    # Of 100 images the best has 5 and 6 more than the others, and they none more than it: p is 0.0625 and 0.031.
    verdicts = {"best": {1: right(60)}, "near": {1: right(55)}, "far": {1: right(54)}}
    assert like_best(verdicts, list(verdicts), (("natural",),)) == {"best", "near"}
    assert like_best(verdicts, list(verdicts), (("natural", "pgd"),)) == {"best", "near"}
    assert like_best(verdicts, [*verdicts, "missing"], (("natural",),)) == set()
    assert like_best(verdicts, list(verdicts), (("aa",),)) == set()


def test_like_the_best_are_differences_that_an_interval_does_not_put_above_zero() -> None:
    one = {"best": {1: right(60)}, "near": {1: right(58)}, "far": {1: right(30)}}
    assert like_best(one, list(one), (("natural",), ("pgd",))) == {"best", "near"}
    counts = {"best": (60, 61, 62), "steady": (50, 51, 52), "unsteady": (30, 61, 40)}
    seeds = {name: {seed: right(count) for seed, count in enumerate(of)} for name, of in counts.items()}
    assert like_best(seeds, list(seeds), (("natural",),)) == {"best", "unsteady"}, "seeds differ more than methods"
