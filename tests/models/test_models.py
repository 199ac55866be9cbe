"""The papers' networks: sizes, shapes, what they accept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.core.datasets import DATASETS
from pipeline.core.errors import RequestError
from pipeline.core.values import Normalization
from pipeline.models import ARCHITECTURES, build_model, check_input
from tests.conftest import REPOSITORY

FITTING = [
    ("small_cnn", "digits", 1, 8),
    ("small_cnn", "mnist", 1, 28),
    ("resnet18", "cifar10", 3, 32),
    ("resnet18", "mnist", 1, 28),
    ("wrn32_10", "mnist", 1, 28),
    ("resnet18_width16", "digits", 1, 8),
    ("resnet18_width32", "cifar10", 3, 32),
    ("resnet20", "digits", 1, 8),
    ("preact_resnet18", "cifar10", 3, 32),
]


@pytest.mark.parametrize(
    ("architecture", "dataset", "parameters", "convolutions"),
    [
        ("resnet18", "cifar10", 11_173_962, 20),
        ("wrn32_10", "cifar10", 46_160_474, 34),
        ("small_cnn", "digits", 24_698, 3),
        ("resnet18_width16", "cifar10", 701_466, 20),
        ("resnet18_width32", "cifar10", 2_797_610, 20),
        ("resnet20", "cifar10", 272_474, 21),
        ("preact_resnet18", "cifar10", 11_172_170, 20),
        ("wrn28_10", "cifar10", 36_479_194, 28),
        ("wrn34_10", "cifar10", 46_160_474, 34),
        ("resnet18", "cifar100", 11_173_962 + 90 * 513, 20),
        ("resnet18", "mnist", 11_173_962 - 2 * 9 * 64, 20),
        ("wrn32_10", "mnist", 46_160_474 - 2 * 9 * 16, 34),
    ],
)
def test_sizes_are_the_published_ones(architecture: str, dataset: str, parameters: int, convolutions: int) -> None:
    with torch.device("meta"):
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
    expected = (
        "resnet18 takes images from 16 x 16 to 96 x 96 pixels, but the data has 1 x 8 x 8; networks that take it: "
        "small_cnn, resnet18_width16, resnet18_width32, resnet20"
    )
    with pytest.raises(RequestError, match=expected):
        build_model("resnet18", "digits")
    expected = (
        "resnet50 takes images with 3 channels, from 64 x 64 pixels, but the data has 1 x 28 x 28; networks that take "
        "it: small_cnn, resnet18, resnet18_width16, resnet18_width32, resnet20, preact_resnet18, wrn28_10, wrn32_10"
    )
    with pytest.raises(RequestError, match=expected):
        build_model("resnet50", "mnist")


def test_who_takes_which_images() -> None:
    taken = {
        name: [architecture for architecture in ARCHITECTURES if takes(architecture, name)]
        for name in ("digits", "cifar10", "cifar100", "svhn", "mnist", "imagenet")
    }
    digits = ["small_cnn", "resnet18_width16", "resnet18_width32", "resnet20"]
    cifar = [name for name in ARCHITECTURES if name not in ("resnet50", "wrn50_2")]
    assert taken == {
        "digits": digits,
        **dict.fromkeys(("cifar10", "cifar100", "svhn", "mnist"), cifar),
        "imagenet": ["small_cnn", "resnet50", "wrn50_2"],
    }


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18_width16", "resnet20", "preact_resnet18"])
def test_oblong_images_are_taken(architecture: str) -> None:
    data = replace(DATASETS["cifar10"], height=24, width=40)
    assert build_model(architecture, data).eval()(torch.rand(2, 3, 24, 40)).shape == (2, 10)
    with pytest.raises(RequestError, match="from 16 x 16 to 96 x 96 pixels, but the data has 3 x 100 x 40"):
        build_model("resnet18", replace(data, height=100))


def test_a_network_of_the_field_has_the_fields_names() -> None:
    """Those of the tensors of published PreActResNet-18 checkpoints."""
    with torch.device("meta"):
        names = list(build_model("preact_resnet18", "cifar10").state_dict())
    first = ["conv1.weight", "layer1.0.bn1.weight"]
    assert names[:2] == first and names[-2:] == ["linear.weight", "linear.bias"] and "bn.running_var" in names
    assert [name for name in names if "shortcut" in name] == [f"layer{n}.0.shortcut.0.weight" for n in (2, 3, 4)]


def test_two_names_may_stand_for_one_network() -> None:
    assert ARCHITECTURES["wrn34_10"] == ARCHITECTURES["wrn32_10"]


def takes(architecture: str, dataset: str) -> bool:
    try:
        check_input(architecture, DATASETS[dataset])
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("architecture", "size"), [("resnet18", 4), ("wrn32_10", 7)])
def test_mnist_is_neither_padded_nor_cropped(architecture: str, size: int) -> None:
    """28 pixels halve to 14, 7 and 4, and every border pixel counts."""
    model, shapes = build_model(architecture, "mnist").eval(), []
    stage = next(module for name, module in model.named_modules() if name == "last_stage")
    stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[2:])))
    images = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(images)[0, 0], images)
    assert shapes == [(size, size)]
    border = [gradient[0, 0, 0], gradient[0, 0, -1], gradient[0, 0, :, 0], gradient[0, 0, :, -1]]
    assert all(bool((edge != 0).any()) for edge in border)


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


def test_the_page_of_networks_has_every_name_with_its_parameters() -> None:
    page, _, _ = (REPOSITORY / "docs/own_network.md").read_text().partition("## By where it is")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told: dict[str, int] = {}
    for first, _, counts, *_ in rows:
        numbers = [int(count.replace(",", "")) for count in counts.split("; ")]
        names = [name.strip(" |`") for name in first.split(", ")]
        told |= dict(zip(names, numbers * (len(names) // len(numbers)), strict=True))
    images = replace(DATASETS["cifar10"], height=64, width=64)
    with torch.device("meta"):
        built = {name: build_model(name, images) for name in ARCHITECTURES}
    assert told == {name: sum(weight.numel() for weight in model.parameters()) for name, model in built.items()}
