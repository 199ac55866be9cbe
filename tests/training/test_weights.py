"""Averages of weights equal their formula."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import build_model
from pipeline.training.weights import MovingAverage, average_into, copy_weights, counters, weight_tensors


@given(decay=st.floats(0, 0.999), ratio=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_average_into_is_its_formula(decay: float, ratio: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    average, first, second = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(3))
    expected = decay * average + (1 - decay) * (ratio * first + (1 - ratio) * second)
    average_into([average], [(ratio, [first]), (1 - ratio, [second])], decay)
    torch.testing.assert_close(average, expected)


def test_without_memory_even_nan_is_forgotten() -> None:
    average = torch.tensor([float("nan")])
    average_into([average], [(1.0, [torch.tensor([3.0])])], decay=0.0)
    assert average.item() == 3.0


def test_a_source_with_ratio_zero_cannot_poison_the_average() -> None:
    average = torch.zeros(1)
    average_into([average], [(0.0, [torch.tensor([float("nan")])]), (1.0, [torch.ones(1)])], decay=0.5)
    assert average.item() == 0.5


def test_weight_tensors_and_counters_cover_the_state() -> None:
    model = build_model("small_cnn", "digits")
    assert len(weight_tensors(model)) + len(counters(model)) == len(model.state_dict())
    assert len(counters(model)) == 3


def test_copy_weights_copies_everything() -> None:
    source, destination = build_model("small_cnn", "digits"), build_model("small_cnn", "digits")
    source.train()(torch.rand(4, 1, 8, 8))
    copy_weights(source, destination)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, destination.state_dict()[name]), name


def test_warmup_starts_at_one_tenth() -> None:
    model = build_model("small_cnn", "digits")
    average = MovingAverage(model, decay=0.999, warmup=True)
    target = build_model("small_cnn", "digits")
    before = average.model.state_dict()["linear.weight"].clone()
    average.update([(1.0, target)])
    expected = 0.1 * before + 0.9 * target.state_dict()["linear.weight"]
    torch.testing.assert_close(average.model.state_dict()["linear.weight"], expected)
