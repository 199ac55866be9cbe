"""RAMP's fusion of a natural and a robust epoch (methods.md 1.15)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.gradient_projection import project_updates
from tests.conftest import MakeParams
from tests.running import RunExperiment, assert_same

SIZES = st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4)


def fuse(natural_update: list[float], robust_update: list[float], share: float = 0.5) -> tuple[torch.Tensor, float]:
    """The fused update and its cosine, from an arbitrary starting point."""
    old = torch.tensor([1.0, -2.0, 3.0, 0.5])[: len(natural_update)]
    start = old.clone()
    natural, robust = start + torch.tensor(natural_update), start + torch.tensor(robust_update)
    (cosine,) = project_updates([old], [natural], [robust], share)
    return old - start, cosine


@given(SIZES)
def test_equal_updates_are_taken_whole(update: list[float]) -> None:
    fused, cosine = fuse(update, update)
    if sum(abs(value) for value in update) > 1e-2:
        assert cosine == pytest.approx(1, abs=1e-3)
        torch.testing.assert_close(fused, torch.tensor(update), atol=1e-2, rtol=1e-3)


@given(SIZES)
def test_without_a_natural_update_half_of_the_robust_one_is_taken(update: list[float]) -> None:
    fused, _ = fuse([0.0] * 4, update)
    torch.testing.assert_close(fused, 0.5 * torch.tensor(update), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("natural", [[0.0, 1.0], [-1.0, 0.0], [-1.0, 1.0]])
def test_a_natural_update_that_does_not_agree_is_left_out(natural: list[float]) -> None:
    fused, cosine = fuse(natural, [2.0, 0.0])
    assert cosine <= 0
    torch.testing.assert_close(fused, torch.tensor([1.0, 0.0]))


def test_a_natural_update_counts_by_how_far_it_agrees() -> None:
    fused, cosine = fuse([3.0, 4.0], [1.0, 0.0])
    assert cosine == pytest.approx(0.6)
    torch.testing.assert_close(fused, torch.tensor([0.5 * 0.6 * 3 + 0.5, 0.5 * 0.6 * 4]))


def competitor(name: str, **mixture: Any) -> Callable[[dict[str, Any]], None]:
    """Two learners, NT and AT, under RAMP's rule, as the method `name`."""

    def add(raw: dict[str, Any]) -> None:
        learners = {"natural": raw["methods"]["nt"]["learners"]["natural"]}
        learners["robust"] = raw["methods"]["at"]["learners"]["linf"]
        rule = {"rule": "gradient_projection", "natural": "natural", "robust": "robust", **mixture}
        raw["methods"][name] = {"label": name, "learners": learners, "mixture": rule}

    return add


def test_both_learners_restart_from_the_result(make_params: MakeParams, run_method: RunExperiment) -> None:
    trained = run_method(make_params(competitor("fused")), "fused")
    for learner in ("natural", "robust"):
        assert_same(trained.learner(learner), trained.mixture)
    for record in trained.observer.records:
        assert record["redistributed"] == 1.0
        assert -1 <= record["update_cosine"] <= 1


def test_with_a_natural_share_of_zero_it_is_the_robust_learner_alone(
    make_params: MakeParams, run_method: RunExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its noise is that of another learner's name, so that name is AT's here."""
    params = make_params(
        competitor("alone", natural_share=0.0, robust="linf"),
        lambda raw: raw["methods"]["alone"]["learners"].update(linf=raw["methods"]["alone"]["learners"].pop("robust")),
    )
    fused, alone = run_method(params, "alone").mixture, run_method(params, "at").learner("linf")
    for name, tensor in alone.items():
        torch.testing.assert_close(fused[name], tensor, atol=1e-4, rtol=1e-3)
