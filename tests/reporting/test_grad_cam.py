"""Class-activation maps: of known networks, of all networks, and as a figure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.values import Normalization
from pipeline.models import ARCHITECTURES, build_model
from pipeline.reporting.grad_cam import class_activation_maps, last_stage

DATASETS = {"small_cnn": "digits", "resnet50": "imagenet", "wrn50_2": "imagenet"}


class LightAndDark(nn.Module):
    """Class 0 is how light an image is on average, class 1 how dark, class 2 nothing: its maps are known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.last_stage = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = self.last_stage(self.scale * torch.cat([images, 1 - images], dim=1))
        light, dark = features.mean((2, 3)).unbind(1)
        return torch.stack([light, dark, 0 * light], dim=1)


def test_the_map_is_what_speaks_for_the_class() -> None:
    images = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    images[:, :, 0, 0], images[:, :, 5, 5] = 0, 1
    model = LightAndDark().eval()
    maps = class_activation_maps(model, images, torch.tensor([0, 1, 2]))
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps[0], images[0, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(maps[1], 1 - images[1, 0], atol=1e-5, rtol=0)
    assert maps[2].abs().max() == 0
    assert model.scale.grad is None and not model.last_stage._forward_hooks


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "wrn50_2"])
def test_every_network_has_a_last_stage(architecture: str) -> None:
    dataset = DATASETS.get(architecture, "cifar10")
    torch.manual_seed(0)
    model = build_model(architecture, dataset).eval()
    shapes: list[torch.Size] = []
    handle = last_stage(model).register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    size = 8 if dataset == "digits" else 32
    images = torch.rand(2, 1 if dataset == "digits" else 3, size, size)
    maps = class_activation_maps(model, images, torch.tensor([1, 2]))
    handle.remove()
    assert maps.shape == (2, size, size)
    assert torch.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1
    # Of the last convolutions: the most channels, before any pooling to a single place.
    ((count, channels, height, width),) = shapes
    widest = max(module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    assert (count, channels) == (2, widest)
    assert (
        height
        == width
        == {"digits": 4, "cifar10": 4 if architecture.startswith("resnet18") else 8, "imagenet": 1}[dataset]
    )


def test_a_standardising_network_has_the_maps_of_the_network_inside() -> None:
    torch.manual_seed(0)
    model = build_model("small_cnn", "digits", Normalization(mean=[0.0], std=[1.0])).eval()
    inside = model.get_submodule("network")
    assert last_stage(model) is last_stage(inside)
    images, classes = torch.rand(2, 1, 8, 8), torch.tensor([3, 4])
    assert torch.equal(class_activation_maps(model, images, classes), class_activation_maps(inside, images, classes))
