"""AutoAttack through its package: what it flags, and that the memory layout of convolutions does not reach it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.datasets import DATASETS, numbered
from pipeline.data.images import ImageSet
from pipeline.evaluation.attacks.autoattack import AutoAttack, AutoAttackMember, defined_members
from pipeline.evaluation.autoattack import ensemble, flags
from pipeline.models import build_model


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("part", ["apgd_ce", "apgd_t", "fab_t"])
def test_colour_images_in_channels_last(norm: Literal["linf", "l2"], part: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small_cnn", "cifar10").to(memory_format=torch.channels_last).eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        labels = model(images).argmax(1)
    settings = AutoAttack(name="autoattack", norm=norm, epsilon=0.01)
    attacks = ensemble(model, settings, seed=0)
    assert list(attacks) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    adversarial = attacks[part](images, labels)  # type: ignore[index]
    order = float("inf") if norm == "linf" else 2
    # FAB returns its smallest adversarial perturbation only where it is within the radius.
    assert torch.linalg.vector_norm((adversarial - images).flatten(1), ord=order, dim=1).max() <= 0.01 + 1e-5


@pytest.mark.parametrize("part", ["apgd_t", "fab_t"])
def test_targeted_attacks_aim_at_as_many_classes_as_there_are(part: str) -> None:
    """The package aims at nine others, and would look for a tenth logit."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small_cnn", replace(DATASETS["imagefolder"], classes=numbered(4))).eval()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model(images).argmax(1)
    settings = AutoAttack(name="autoattack", norm="linf", epsilon=0.5)
    adversarial = ensemble(model, settings, seed=0)[part](images, labels)  # type: ignore[index]
    with torch.no_grad():
        assert (model(adversarial).argmax(1) != labels).any()


ORDERS = {"linf": float("inf"), "l2": 2, "l1": 1}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shape", [(6, 13), (13, 6)])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.7), ("l1", 5.0)])
def test_few_classes_and_oblong_images(
    classes: int, shape: tuple[int, int], norm: Literal["linf", "l2", "l1"], epsilon: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, *shape, generator=generator)
    linear = nn.Linear(images[0].numel(), classes)
    model = nn.Sequential(nn.Flatten(), linear).eval()
    with torch.no_grad():
        linear.weight.normal_(generator=generator)
        labels = model(images).argmax(1)
    members = defined_members(classes)
    settings = AutoAttack(name="autoattack", norm=norm, epsilon=epsilon, members=members, queries=20)
    for name, attack in ensemble(model, settings, seed=0).items():
        adversarial = attack(images, labels)
        assert adversarial.shape == images.shape and adversarial.min() >= 0 and adversarial.max() <= 1, name
        distances = torch.linalg.vector_norm((adversarial - images).flatten(1), ord=ORDERS[norm], dim=1)
        assert distances.max() <= epsilon * 1.001, name
        with torch.no_grad():
            assert name == "square" or (model(adversarial).argmax(1) != labels).any(), name  # which asks 20 times


class Counting(nn.Module):
    """Counts the images that a network is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        logits: Tensor = self.model(images)
        return logits


def small_network() -> tuple[nn.Module, Tensor, Tensor]:
    """A network for small grey images, some images, and what it takes them for."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small_cnn", "digits").eval()
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, images, model(images).argmax(1)


@pytest.mark.parametrize(
    ("part", "changed", "share"),
    [("square", {"queries": 50}, 0.55), ("apgd_t", {"targets": 2}, 0.4), ("fab_t", {"targets": 2}, 0.4)],
)
def test_a_smaller_effort_asks_less(part: str, changed: dict[str, int], share: float) -> None:
    model, images, labels = small_network()
    asked = []
    for effort in ({"queries": 100, "targets": 9}, changed):
        counting = Counting(model).eval()
        settings = AutoAttack.model_validate({"name": "autoattack", "norm": "l2", "epsilon": 0.001} | effort)
        ensemble(counting, settings, seed=0)[part](images, labels)  # type: ignore[index]
        asked.append(counting.asked)
    assert asked[1] < share * asked[0]


def test_what_square_asked_before_is_not_forwarded_again() -> None:
    """The same examples as without memory: 64 pixels have few neighbours to try."""
    model, images, labels = small_network()
    settings = AutoAttack(name="autoattack", norm="linf", epsilon=0.02, queries=1500)
    found = []
    for memory in (0, 64):
        counting = Counting(model).eval()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.evaluation.autoattack.REPEATED", memory)
            found.append((ensemble(counting, settings, seed=0)["square"](images, labels), counting.asked))
    assert torch.equal(found[0][0], found[1][0])
    assert found[1][1] < 0.5 * found[0][1]


def test_says_how_it_differs_from_the_standard_ensemble() -> None:
    standard = {"name": "autoattack", "norm": "linf", "epsilon": 0.1}
    assert AutoAttack.model_validate(standard).differences() == []
    assert AutoAttack.model_validate(standard | {"targets": 9, "queries": 5000}).differences() == []
    assert AutoAttack.model_validate(standard | {"targets": 3, "queries": 1000}).differences() == [
        "targeted attacks at 3 classes instead of 9",
        "Square with 1,000 queries instead of 5,000",
    ]
    alone = AutoAttack.model_validate(standard | {"members": ["apgd_ce"], "queries": 10})
    assert alone.differences() == ["APGD-CE alone"]


@pytest.mark.parametrize(
    ("part", "least", "most"),
    [("apgd_ce", 100, 110), ("apgd_t", 9 * 100, 9 * 110), ("fab_t", 9 * 2 * 100, 9 * 2 * 110), ("square", 5000, 5010)],
)
def test_members_take_as_many_steps_as_the_package_gives_them(part: AutoAttackMember, least: int, most: int) -> None:
    """On images that nothing fools: 100 steps, towards each of 9 classes (FAB asks twice a step), and 5,000 queries."""
    calls: list[int] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Defense(lambda logits: calls.append(len(logits)) or logits).eval()  # type: ignore[func-returns-value]
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model(images).argmax(1)
    # In linf Square is answered from memory on images as small as these.
    attack = ensemble(model, AutoAttack(name="autoattack", norm="l2", epsilon=1e-6), seed=0)[part]
    calls.clear()
    attack(images, labels)
    assert least <= len(calls) <= most


class Defense(nn.Module):
    """A linear classifier behind a trick."""

    def __init__(self, trick: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 10)
        self.trick = trick

    def forward(self, images: Tensor) -> Tensor:
        return self.trick(self.linear(images.flatten(1)))


class Noise:
    """Differs from call to call."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, logits: Tensor) -> Tensor:
        return logits + torch.rand(logits.shape, generator=self.generator)


def optimized(logits: Tensor) -> Tensor:
    with torch.enable_grad():
        leaves = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(leaves.square().sum(), leaves)
    return logits + gradient


TRICKS: dict[str, Callable[[Tensor], Tensor]] = {
    "outputs are random": Noise(),
    "outputs are probabilities": lambda logits: logits.softmax(1),
    "the model optimizes at test time": optimized,
    "gradients are zero": lambda logits: 0 * logits,
}


def flagged(trick: Callable[[Tensor], Tensor]) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (100, 3, 8, 8), generator=generator, dtype=torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Defense(trick).eval()
    found = flags(model, ImageSet(images, torch.zeros(100, dtype=torch.long)))
    assert list(found) == list(TRICKS)
    return [name for name, warning in found.items() if warning]


def test_an_honest_model_is_not_flagged() -> None:
    assert flagged(lambda logits: logits) == []


@pytest.mark.parametrize("name", TRICKS)
def test_every_flag_is_raised(name: str) -> None:
    assert flagged(TRICKS[name]) == [name]


def test_the_checks_leave_a_debugger_in_place() -> None:
    trace, previous = (lambda *event: None), sys.gettrace()
    sys.settrace(trace)
    try:
        flagged(lambda logits: logits)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(previous)
