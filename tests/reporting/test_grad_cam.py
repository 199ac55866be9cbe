"""Class-activation maps: of known networks, and of all networks."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.core.values import Normalization
from pipeline.data.images import ImageSplit
from pipeline.models import ARCHITECTURES, build_model
from pipeline.objectives.part import class_activation
from pipeline.reporting.examples import views
from pipeline.training.weights import own_tensors
from tests.conftest import MakeParams

DATASETS = {"small_cnn": "digits", "resnet50": "imagenet", "wrn50_2": "imagenet"}


class LightAndDark(nn.Module):
    """Class 0 is how light an image is on average, class 1 how dark: their maps are known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.last_stage = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = self.last_stage(self.scale * torch.cat([images, 1 - images], dim=1))
        logits: Tensor = features.mean((2, 3))
        return logits


def test_the_map_is_what_speaks_for_the_predicted_class() -> None:
    images = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)) / 2
    images[0] += 0.5
    images[:, :, 0, 0], images[:, :, 5, 5] = 0, 1
    model = LightAndDark().eval()
    maps = class_activation(model, images)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps[0], images[0, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(maps[1], 1 - images[1, 0], atol=1e-5, rtol=0)
    assert model.scale.grad is None and model.scale.requires_grad and not model.last_stage._forward_hooks


def test_where_nothing_speaks_for_the_class_the_map_is_empty() -> None:
    assert class_activation(LightAndDark().eval(), torch.zeros(1, 1, 6, 6) + 0.5).abs().max() == 0


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "wrn50_2"])
def test_every_network_has_a_last_stage(architecture: str) -> None:
    dataset = DATASETS.get(architecture, "cifar10")
    torch.manual_seed(0)
    model = build_model(architecture, dataset).eval()
    shapes: list[torch.Size] = []
    stage = model.last_stage
    assert isinstance(stage, nn.Module)
    handle = stage.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    size = 8 if dataset == "digits" else 32
    images = torch.rand(2, 1 if dataset == "digits" else 3, size, size)
    maps = class_activation(model, images)
    handle.remove()
    assert maps.shape == (2, size, size)
    assert torch.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1
    # Of the last convolutions: the most channels, before any pooling to a single place.
    ((count, channels, height, width),) = shapes
    widest = max(module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    assert (count, channels) == (2, widest)
    assert height == width == {"digits": 4, "cifar10": 4 if "resnet18" in architecture else 8, "imagenet": 1}[dataset]


def test_a_standardising_network_has_the_maps_of_the_network_inside() -> None:
    torch.manual_seed(0)
    model = build_model("small_cnn", "digits", Normalization(mean=[0.0], std=[1.0])).eval()
    inside = model.get_submodule("network")
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(class_activation(model, images), class_activation(inside, images))


def test_the_report_shows_images_of_a_network_without_feature_maps_without_them(
    make_params: MakeParams, tiny_split: ImageSplit
) -> None:
    change = {"architecture": "tests.training.test_own_networks:Flat"}
    experiment = make_params(lambda raw: raw["model"].update(change)).experiment("nt", 1)
    weights = save(own_tensors(experiment.build_model()))
    found = views(experiment, weights, tiny_split.test, [3, 5], ["natural"])["natural"]
    assert found.maps.shape == (2, 8, 8) and not found.maps.any()
    assert torch.equal(found.pixels, tiny_split.test.images[[3, 5]])
