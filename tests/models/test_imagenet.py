"""torchvision's networks behind the project's conventions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision import models

from pipeline.core.datasets import DATASETS, numbered
from pipeline.core.errors import RequestError
from pipeline.core.values import Normalization
from pipeline.models import build_model
from pipeline.models.imagenet import MEAN, STD, ImageNetNetwork


@pytest.fixture(scope="module")
def network() -> ImageNetNetwork:
    made = build_model("resnet50", replace(DATASETS["imagenet"], classes=numbered(7)))
    assert isinstance(made, ImageNetNetwork)
    return made.eval()


@pytest.mark.parametrize(("architecture", "parameters"), [("resnet50", 25_557_032), ("wrn50_2", 68_883_240)])
def test_sizes_are_the_published_ones(architecture: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(architecture, "imagenet")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 53
    assert model(torch.rand(2, 3, 224, 224, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_any_size_and_number_of_classes(network: ImageNetNetwork, size: int) -> None:
    with torch.no_grad():
        logits = network(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 7) and torch.isfinite(logits).all()


def test_the_published_standardisation_is_inside_and_not_in_the_state(network: ImageNetNetwork) -> None:
    plain = models.resnet50(num_classes=7).eval()
    plain.load_state_dict(network.network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        torch.testing.assert_close(network(images), plain((images - mean) / std))
    assert len(network.state_dict()) == len(plain.state_dict())


def test_the_last_stage_gives_the_features_of_class_activation_maps(network: ImageNetNetwork) -> None:
    seen: list[torch.Size] = []
    handle = network.last_stage.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.no_grad():
        network(torch.rand(2, 3, 64, 64))
    handle.remove()
    assert seen == [(2, 2048, 2, 2)]


def test_every_parameter_receives_a_gradient(network: ImageNetNetwork) -> None:
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.zero_grad()


def test_a_second_standardisation_is_refused() -> None:
    with pytest.raises(RequestError, match="resnet50 standardises its inputs itself, and must not a second time"):
        build_model("resnet50", "imagenet", Normalization(mean=MEAN, std=STD))


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(
        RequestError, match=r"wrn50_2 takes images with 3 channels, from 64 x 64 pixels, but .* 3 x 32 x 32"
    ):
        build_model("wrn50_2", "cifar10")
    with pytest.raises(
        RequestError, match=r"resnet18 takes .* but the data has .* take it: small_cnn, resnet50, wrn50_2"
    ):
        build_model("resnet18", "imagenet")
