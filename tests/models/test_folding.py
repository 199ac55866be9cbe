"""Attacks are crafted on networks whose BatchNorm is folded into their convolutions: the same function, to rounding."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.pgd import PGD, frozen
from pipeline.core.values import Normalization
from pipeline.models import build_model
from pipeline.models.bezier import BezierPath
from pipeline.models.folding import folded

NETWORKS = [
    ("small_cnn", "digits", (1, 8, 8), 0),
    ("resnet18", "cifar10", (3, 32, 32), 0),
    ("resnet18_width16", "digits", (1, 8, 8), 0),
    # Pre-activation: the BatchNorm of a block's end reads a sum, not a convolution.
    ("wrn32_10", "cifar10", (3, 32, 32), 15),
    ("resnet50", "imagenet", (3, 64, 64), 0),
]


def norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def trained(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The network with statistics, scales and shifts that are not those of a new one."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    network.train()
    with torch.no_grad():
        network(torch.rand(4, *shape, dtype=next(network.parameters()).dtype))
    return network.eval()


def test_a_layer_that_is_replaced_is_part_of_the_next_copy() -> None:
    """As a notebook gives a network another head between two attacks."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10)).eval()
    images = torch.rand(2, 3, 8, 8)
    assert norms(folded(model)) == 0
    model[3] = nn.Linear(4 * 36, 10)
    torch.testing.assert_close(folded(model)(images), model(images))
    model[0] = nn.Conv2d(3, 4, 3)
    torch.testing.assert_close(folded(model)(images), model(images))


@pytest.mark.parametrize(("architecture", "dataset", "shape", "left"), NETWORKS)
def test_crafted_examples_agree_to_rounding(
    architecture: str, dataset: str, shape: tuple[int, ...], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(build_model(architecture, dataset).double(), shape)
    images, labels = torch.rand(2, *shape, dtype=torch.float64), torch.tensor([1, 2])
    attack = PGD(norm="l2", epsilon=0.5, step_size=0.2, steps=2, start="zero")
    assert norms(folded(model)) == left
    quick = attack.perturb(model, images, labels, torch.Generator())
    monkeypatch.setattr("pipeline.attacks.pgd.folded", lambda network: network)
    plain = attack.perturb(model, images, labels, torch.Generator())
    assert not torch.equal(plain, images)
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-9)


def test_follows_the_weights_and_statistics_of_training() -> None:
    model, images = build_model("small_cnn", "digits").double(), torch.rand(8, 1, 8, 8, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        model.train()
        torch.autograd.backward(nn.functional.cross_entropy(model(images), torch.arange(8)))
        optimizer.step()
        model.eval()
        copy = folded(model)
        assert copy is not model
        torch.testing.assert_close(copy(images), model(images))


def test_belongs_to_one_network() -> None:
    first = trained(build_model("small_cnn", "digits"), (1, 8, 8))
    second, images = deepcopy(first), torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        second.linear.bias += 1  # type: ignore[operator, union-attr]
    assert folded(first) is folded(first)
    torch.testing.assert_close(folded(second)(images), folded(first)(images) + 1)
    first.double()
    torch.testing.assert_close(folded(first)(images.double()), first(images.double()))


def test_is_no_part_of_the_networks_state() -> None:
    model = trained(build_model("small_cnn", "digits"), (1, 8, 8))
    before = deepcopy(model.state_dict())
    with frozen(model) as attacked:
        assert attacked is not model and not any(weight.requires_grad for weight in attacked.parameters())
    assert list(model.state_dict()) == list(before) and all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Branching(nn.Module):
    """Whether BatchNorm is run depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build_model("small_cnn", "digits")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images if images.mean() > 0 else -images)
        return logits


class Noisy(nn.Module):
    """Adds the same noise to all images of a batch, other noise in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build_model("small_cnn", "digits")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images + torch.rand(8, 8))
        return logits


class Shared(nn.Module):
    """One convolution under two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(64, 10)
        self.first, self.second = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def forward(self, images: Tensor) -> Tensor:
        once = self.first(self.convolution(images))
        logits: Tensor = self.linear(self.second(self.convolution(once)).flatten(1))
        return logits


class NoStatistics(nn.Module):
    """BatchNorm that uses its batch's statistics in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(144, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


def path() -> nn.Module:
    """A network whose weights are others at every position."""
    return BezierPath(*(build_model("small_cnn", "digits") for _ in range(3)))


@pytest.mark.parametrize("build", [Branching, Noisy, Shared, NoStatistics, path])
def test_what_cannot_be_folded_is_attacked_as_it_is(build: type[nn.Module]) -> None:
    model = build().eval()
    assert folded(model) is model


def test_that_a_network_is_not_folded_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Branching().eval()
    for _ in range(3):
        folded(model)
    (message,) = caplog.messages
    assert message.startswith("attacks see Branching as it is")


def test_a_layer_with_a_hook_is_run_itself() -> None:
    model = trained(build_model("small_cnn", "digits"), (1, 8, 8))
    seen: list[int] = []
    handle = model.norms[0].register_forward_hook(lambda *_: seen.append(1))  # type: ignore[index, union-attr]
    folded(model)(torch.rand(2, 1, 8, 8))
    assert seen == [1]
    handle.remove()
    assert folded(model) is not model


def test_standardised_inputs_are_kept() -> None:
    normalization = Normalization(mean=[0.3], std=[0.2])
    model = trained(build_model("small_cnn", "digits", normalization).double(), (1, 8, 8))
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    assert norms(folded(model)) == 0
    torch.testing.assert_close(folded(model)(images), model(images))
