"""Networks from anywhere: named by their path, fitted to the data, and refused before the first epoch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.datasets import DATASETS, DataFacts
from pipeline.core.errors import RequestError
from pipeline.core.values import Normalization
from pipeline.models import build_model, check_input
from pipeline.models.checks import check_network
from pipeline.models.fitting import fit
from pipeline.models.own import construct
from pipeline.models.stages import last_stage
from pipeline.objectives.part import class_activation

CIFAR10, DIGITS = DATASETS["cifar10"], DATASETS["digits"]
RESNET = "torchvision.models:resnet18"
TRANSFORMER = {"image_size": 32, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module of one's own, and gives the path of `Net` in it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def write(source: str) -> str:
        name = f"own_net_{len(names)}"
        names.append(name)
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{source}")
        return f"{name}:Net"

    return write


OWN_DEFAULTS = """
class Net(nn.Module):
    def __init__(self, {parameters}):
        super().__init__()
        self.given = ({names})
"""


@pytest.mark.parametrize(
    ("parameters", "names", "given"),
    [
        ("channels, classes, width=16", "channels, classes, width", (3, 10, 16)),
        ("num_classes, depth=28, width=10", "num_classes, depth, width", (10, 28, 10)),
        ("in_channels, num_classes, channels=64", "in_channels, num_classes, channels", (3, 10, 64)),
        ("in_chans, classes, height=1, width=1", "in_chans, classes, height, width", (3, 10, 32, 32)),
    ],
)
def test_a_networks_own_width_and_channels_are_not_those_of_the_images(
    own: Callable[[str], str], parameters: str, names: str, given: tuple[int, ...]
) -> None:
    path = own(OWN_DEFAULTS.format(parameters=parameters, names=names))
    assert construct(path, CIFAR10, {}).given == given


def test_a_network_that_flattens_by_view_is_refused_with_the_way_out() -> None:
    """It works on images as they lie in a notebook, but not in the layout that convolutions are fastest on."""

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.linear(self.convolution(images).view(-1, 4 * 36))  # type: ignore[no-any-return]

    with pytest.raises(RequestError, match=r"cannot take images of 3 x 8 x 8 .* Use \.reshape"):
        check_network("views", Views(), (3, 8, 8), 10)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_torchvisions_resnet_fitted_to_cifar_is_the_papers() -> None:
    """A 3 x 3 stem with stride 1, no max-pool and ten classes: the parameters are those of `resnet18`."""
    with torch.device("meta"):
        fitted = build_model(RESNET, CIFAR10, fit=True)
        assert parameters(fitted) == parameters(build_model("resnet18", CIFAR10))
        assert parameters(build_model(RESNET, CIFAR10, arguments={"num_classes": 10})) == 11_181_642
        shapes: list[torch.Size] = []
        fitted.get_submodule("layer4").register_forward_hook(lambda *seen: shapes.append(seen[2].shape))
        assert fitted(torch.rand(2, *CIFAR10.shape)).shape == (2, 10) and shapes == [(2, 512, 4, 4)]


@pytest.mark.parametrize(
    ("path", "data", "arguments"),
    [
        (RESNET, DIGITS, {}),
        (RESNET, replace(CIFAR10, height=24, width=40), {}),
        ("torchvision.models:mobilenet_v3_small", CIFAR10, {}),
        ("torchvision.models:squeezenet1_1", CIFAR10, {"num_classes": 10, "__fit__": False}),
        ("torchvision.models:VisionTransformer", CIFAR10, TRANSFORMER),
    ],
)
def test_networks_of_torchvision_are_taken(path: str, data: DataFacts, arguments: dict[str, object]) -> None:
    arguments = dict(arguments)
    model = build_model(path, data, fit=bool(arguments.pop("__fit__", True)), arguments=arguments)
    check_network(path, model, data.shape, 10, maps=True)
    maps = class_activation(model.eval(), torch.rand(2, *data.shape))
    assert maps.shape == (2, data.height, data.width) and torch.isfinite(maps).all()


def test_images_that_are_not_small_keep_the_stem() -> None:
    model = build_model(RESNET, replace(CIFAR10, channels=1, height=96, width=96), fit=True)
    stem = model.get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d) and (stem.in_channels, stem.kernel_size, stem.stride) == (1, (7, 7), (2, 2))
    assert isinstance(model.get_submodule("maxpool"), nn.MaxPool2d)


def test_patches_keep_their_size_and_what_fits_is_left() -> None:
    patches, head = nn.Conv2d(1, 4, 4, 4), nn.Linear(4, 10)
    model = nn.Sequential(patches, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    fit(model, DIGITS)
    assert model[0] is patches and model[3] is head
    fit(model, CIFAR10)
    assert (model[0].in_channels, model[0].kernel_size) == (3, (4, 4)) and model[3] is head


def test_a_file_of_ones_own_is_given_what_it_asks_for(own: Callable[[str], str]) -> None:
    path = own(
        "class Net(nn.Sequential):\n"
        "    def __init__(self, channels, num_classes, height, width, wide=2):\n"
        "        first = nn.Linear(channels * height * width, wide)\n"
        "        super().__init__(nn.Flatten(), first, nn.Linear(wide, num_classes))\n"
    )
    images = replace(CIFAR10, height=6, width=10)
    model = build_model(path, images, Normalization(mean=[0.5] * 3, std=[0.2] * 3), arguments={"wide": 7})
    assert parameters(model) == (180 + 1) * 7 + (7 + 1) * 10
    check_network(path, model, images.shape, 10)
    with pytest.raises(RequestError, match="has no feature maps"):
        class_activation(model, torch.rand(2, 3, 6, 10))
    with pytest.raises(RequestError, match=r"has no argument 'width2'; did you mean 'width'"):
        build_model(path, images, arguments={"width2": 7})


def test_the_last_stage_is_named_or_found() -> None:
    images = torch.rand(2, *CIFAR10.shape)
    found = build_model(RESNET, CIFAR10, Normalization(mean=[0.5] * 3, std=[0.2] * 3), fit=True)
    assert found.training and last_stage(found, images) is found.get_submodule("network.layer4") and found.training
    named = build_model(RESNET, CIFAR10, fit=True, last_stage="layer3.1")
    assert last_stage(named, images) is named.get_submodule("layer3.1")
    assert list(named.state_dict()) == list(build_model(RESNET, CIFAR10, fit=True).state_dict())
    with pytest.raises(RequestError, match=r"ResNet has no module 'layer5'; did you mean 'layer4'"):
        build_model(RESNET, CIFAR10, fit=True, last_stage="layer5")


def test_layers_with_the_channels_last_are_no_feature_maps() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.LayerNorm(6), nn.Linear(6, 10)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.norm(self.maps(images).permute(0, 2, 3, 1)).mean((1, 2)))
            return logits

    model = Last()
    assert last_stage(model, torch.rand(2, 3, 32, 32)) is model.maps


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("torchvision.models.resnet18", "unknown architecture 'torchvision.models.resnet18'.*'package.module:object'"),
        ("torchvision.models:", "is no network: expected 'package.module:object'"),
        ("torchvisio.models:resnet18", r"there is no module 'torchvisio' .*: did you mean 'torchvision'\?"),
        ("torchvision.model:resnet18", r"'torchvision' has no module 'model'; did you mean 'models'\?"),
    ],
)
def test_a_path_is_checked_with_the_settings_and_nothing_imported(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_input(path, CIFAR10)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class Nets(nn.Linear): pass", r"has no attribute 'Net'; did you mean 'Nets'\?"),
        ("import nothing_of_that_name", "cannot be imported: ModuleNotFoundError: No module named 'nothing_of"),
        ("Net = 3", "is int, expected a class or a function"),
        ("def Net(): return 3", "gives int, expected a torch.nn.Module"),
        ("def Net(depth): return nn.Linear(1, 1)", r"cannot be built by calling it with \(\): TypeError: .*depth"),
    ],
)
def test_what_is_no_network_is_refused(own: Callable[[str], str], source: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        build_model(own(source), DIGITS)


class Flat(nn.Module):
    """Logits of flat images, which subclasses spoil."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(64, outputs)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits


class Auxiliary(Flat):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits  # type: ignore[return-value]


class Probabilities(Flat):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)


class Infinite(Flat):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 0


class Random(Flat):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(images))


class BatchNorm(Flat):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - images.mean(0)) / images.std(0, unbiased=False).add(0.1))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Flatten(), "has no parameters: there is nothing to train"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "has lazy layers"),
        (Flat(1000), r"maps 4 images of 1 x 8 x 8 to \[4, 1000\] in eval mode, expected \[4, 10\].*model.fit: true"),
        (nn.Conv2d(3, 10, 3), "cannot take images of 1 x 8 x 8 in eval mode: RuntimeError: .*3 channels.*model.fit"),
        (Auxiliary(), "gives tuple in train mode, expected a tensor of logits; switch auxiliary outputs off"),
        (Probabilities(), "gives probabilities in eval mode, expected logits"),
        (Infinite(), "gives logits that are not finite"),
        (Random(), "gives other logits for the same images in eval mode: it is random"),
        (BatchNorm(), "depend on the other images of its batch"),
    ],
)
def test_a_network_that_cannot_be_trained_or_attacked_is_refused(network: nn.Module, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_network("mine:Net", network, DIGITS.shape, 10)


def test_a_check_leaves_network_and_randomness_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 10)).train()
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    check_network("mine:Net", model, DIGITS.shape, 10)
    assert torch.equal(torch.get_rng_state(), before) and model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
