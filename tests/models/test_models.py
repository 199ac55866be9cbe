"""The papers' networks: sizes, shapes, what they accept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.config import Normalization
from pipeline.errors import RequestError
from pipeline.models import ARCHITECTURES, build_model

FITTING = [("small_cnn", "digits", 1, 8), ("small_cnn", "mnist", 1, 28), ("resnet18", "cifar10", 3, 32)]


@pytest.mark.parametrize(
    ("architecture", "dataset", "parameters", "convolutions"),
    [
        ("resnet18", "cifar10", 11_173_962, 20),
        ("wrn32_10", "cifar10", 46_160_474, 34),
        ("small_cnn", "digits", 24_698, 3),
        ("resnet18", "cifar100", 11_173_962 + 90 * 513, 20),
    ],
)
def test_sizes_are_the_papers(architecture: str, dataset: str, parameters: int, convolutions: int) -> None:
    model = build_model(architecture, dataset)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convolutions


@pytest.mark.parametrize(("architecture", "dataset", "channels", "size"), FITTING)
def test_logits_have_one_column_per_class(architecture: str, dataset: str, channels: int, size: int) -> None:
    logits = build_model(architecture, dataset).eval()(torch.rand(2, channels, size, size))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


def test_every_parameter_receives_a_gradient() -> None:
    """Unlike the wide network of the field's older code, which carries a block that no forward pass uses."""
    for architecture, dataset, channels, size in FITTING:
        model = build_model(architecture, dataset)
        model(torch.rand(2, channels, size, size)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters()), architecture


def test_a_network_that_cannot_take_the_data_is_refused() -> None:
    expected = r"resnet18 takes images of 3 x 32 x 32, but digits has 1 x 8 x 8; networks that take it: small_cnn"
    with pytest.raises(RequestError, match=expected):
        build_model("resnet18", "digits")


def test_an_unknown_network_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"did you mean 'resnet18'\?") as caught:
        build_model("resnet_18", "cifar10")
    assert all(name in str(caught.value) for name in ARCHITECTURES)


def test_normalisation_is_inside_the_model_and_not_in_its_state() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = build_model("small_cnn", "digits").eval()
        torch.manual_seed(0)
        normalized = build_model("small_cnn", "digits", Normalization(mean=[0.25], std=[0.5])).eval()
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(normalized(images), plain((images - 0.25) / 0.5))
    assert len(normalized.state_dict()) == len(plain.state_dict())
