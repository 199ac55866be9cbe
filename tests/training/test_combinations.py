"""Soups and tuned ratios, judged by scores that the test makes up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.training.combinations import Combinations, greedy_soup, neighbours, tuned, uniform


class Named(nn.Module):
    """A network that stands for its ratios."""

    def __init__(self, ratios: Mapping[str, float]) -> None:
        super().__init__()
        self.ratios = dict(ratios)


class Kitchen:
    """Combinations without weights."""

    def at(self, ratios: Mapping[str, float]) -> nn.Module:
        return Named(ratios)


KITCHEN = cast(Combinations, Kitchen())


def ratios_of(model: nn.Module) -> dict[str, float]:
    assert isinstance(model, Named)
    return model.ratios


@given(weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=8))
def test_neighbours_stay_on_the_simplex_of_any_dimension(weights: list[float]) -> None:
    ratios = {str(number): weight / sum(weights) for number, weight in enumerate(weights)}
    found = list(neighbours(ratios))
    assert found[0] == ratios
    assert len(found) == 1 + 2 * len(weights)
    for one in found:
        assert min(one.values()) >= 0
        assert sum(one.values()) == pytest.approx(1)


def test_tuning_moves_towards_the_better_learner_and_stays_where_nothing_is_better() -> None:
    start = {"linf": 0.6, "natural": 0.4}
    assert tuned(start, KITCHEN, lambda model: ratios_of(model)["natural"])["natural"] == pytest.approx(0.7)
    assert tuned(start, KITCHEN, lambda model: 0.5) == start


def test_a_greedy_soup_takes_the_best_first_and_leaves_out_what_spoils_it() -> None:
    scores = {"a": 0.5, "b": 0.9, "c": 0.7}

    def judge(model: nn.Module) -> float:
        members = {name for name, ratio in ratios_of(model).items() if ratio > 0}
        return 0.1 if {"a", "b"} <= members else max(scores[name] for name in members)

    assert greedy_soup(list(scores), KITCHEN, judge) == {"a": 0.0, "b": 0.5, "c": 0.5}
    assert uniform(["a", "b", "c"], ["a"]) == {"a": 1.0, "b": 0.0, "c": 0.0}
