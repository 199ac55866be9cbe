"""Intervals and tests, against scipy and known values."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pipeline.evaluation.statistics import class_accuracies, mcnemar, wilson
from pipeline.evaluation.verdicts import verdict_frame


@given(st.data(), st.integers(1, 2000))
def test_the_interval_is_scipys(data: st.DataObject, count: int) -> None:
    correct = data.draw(st.integers(0, count))
    expected = binomtest(correct, count).proportion_ci(method="wilson")
    assert wilson(correct / count, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.floats(0, 1), st.integers(1, 10**6))
def test_the_interval_holds_its_share_and_shrinks(share: float, count: int) -> None:
    low, high = wilson(share, count)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    narrower = wilson(share, 4 * count)
    assert narrower[1] - narrower[0] < high - low


def correct(flags: str) -> pd.Series:
    return pd.Series([flag == "1" for flag in flags])


def test_mcnemar_counts_the_images_that_only_one_method_gets_right() -> None:
    found = mcnemar(correct("1111111100"), correct("1100000001"))
    assert (found.images, found.only_first, found.only_second) == (10, 6, 1)
    assert found.p_value == pytest.approx(0.125)


def test_mcnemar_compares_images_that_both_were_attacked_on() -> None:
    found = mcnemar(correct("11110"), correct("11"))
    assert (found.images, found.p_value) == (2, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_does_not_care_who_is_first(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (pd.Series(list(column)) for column in zip(*pairs, strict=True))
    assert mcnemar(first, second).p_value == pytest.approx(mcnemar(second, first).p_value)
    assert mcnemar(first, first).p_value == 1.0


def test_every_class_has_its_accuracy() -> None:
    frame = class_accuracies(verdict_frame("pgd", [0, 0, 0, 1], [0, 1, 0, 1]))
    assert frame["accuracy"].tolist() == pytest.approx([2 / 3, 1.0])
    assert frame["images"].tolist() == [3, 1]
    assert (frame["low"] < frame["accuracy"]).all() and (frame["accuracy"] <= frame["high"]).all()
