"""A training step: against a plain loop, of every method, and what each of the engine's ways saves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision import transforms

from benchmarks.frame import benchmark, in_turn, rates, ratios, timed, timer
from benchmarks.loops import EPSILON, STEP_SIZE, STEPS, THREADS, Loop, generalist, minibatch, suite
from benchmarks.reference_style import HABITS, without_habit
from pipeline.config import Params
from pipeline.core.devices import Backend, choose_backend
from pipeline.data.augmentation import augment
from pipeline.models import build_model

METHOD = "generalist_d_nt_linf"
OBJECTIVES = {"linf": {"name": "adversarial", "norm": "linf"}, "natural": {"name": "natural"}}
FEW = ("nt", "at", METHOD, "generalist_t")


class Case(NamedTuple):
    """A network with the suite that it is trained in."""

    overrides: tuple[str, ...]
    batch_size: int
    methods: tuple[str, ...] = FEW
    """None of them: all."""


CASES = {
    "resnet18": Case(("suite=cifar10",), 12, ()),
    "small_cnn": Case(("suite=digits", "competitors=all"), 64),
    "wrn32_10": Case(("suite=cifar10", "architecture=wrn32_10", "competitors=none"), 2),
    "resnet50": Case(("suite=imagenet",), 2),
    "wrn50_2": Case(("suite=imagenet", "architecture=wrn50_2"), 2),
    # Small enough for a test.
    "tiny": Case(
        ("suite=cifar10", "architecture=small_cnn", "threat_model.linf.steps=1", "threat_model.l2.steps=1"), 4
    ),
}
ALL_CASES = tuple(name for name in CASES if name != "tiny")


class PlainLoop:
    """The reference style, written by hand: what a step costs when nothing is spared."""

    def __init__(self, architecture: str, device: torch.device) -> None:
        self.adversarial = build_model(architecture, "cifar10").to(device)
        self.natural = build_model(architecture, "cifar10").to(device)
        self.optimizers = [
            torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
            for model in (self.adversarial, self.natural)
        ]
        self.averages = [
            {name: tensor.clone() for name, tensor in self.adversarial.state_dict().items()} for _ in range(3)
        ]

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step of both learners, the averages and the meters."""
        perturbed = self._craft(images, labels)
        for model, optimizer, inputs in zip(
            (self.adversarial, self.natural), self.optimizers, (perturbed, images), strict=True
        ):
            model.train()
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(inputs), labels))
            optimizer.step()
        first, second = self.adversarial.state_dict(), self.natural.state_dict()
        mixed = {name: 0.5 * first[name] + 0.5 * second[name] for name in first}
        self.averages = [
            {name: 0.999 * average[name] + 0.001 * source[name] for name in average}
            for average, source in zip(self.averages, (first, second, mixed), strict=True)
        ]
        for model in (self.adversarial, self.natural):
            with torch.no_grad():
                (model(images).argmax(1) == labels).float().mean().item()

    def _craft(self, images: Tensor, labels: Tensor) -> Tensor:
        self.adversarial.eval()
        perturbed = (images + torch.empty_like(images).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
        for _ in range(STEPS):
            perturbed = perturbed.detach().requires_grad_()
            self.adversarial.zero_grad()
            torch.autograd.backward(functional.cross_entropy(self.adversarial(perturbed), labels))
            assert perturbed.grad is not None
            perturbed = perturbed.detach() + STEP_SIZE * perturbed.grad.sign()
            perturbed = torch.min(torch.max(perturbed, images - EPSILON), images + EPSILON).clamp(0, 1)
        return perturbed.detach()


@benchmark(architecture="small_cnn", batch_size=4, rounds=1)
def step(architecture: str = "resnet18", batch_size: int = 128, rounds: int = 5) -> dict[str, Any]:
    """One training step of Generalist-D (NT + linf) against a plain loop.

    The plain loop does what the authors' published code does: float32, channels first, parameter gradients computed
    while crafting, three weight averages by cloning state dicts, a forward pass per learner for the progress meter.
    Both do the same number of attack steps on the same images.
    """
    torch.manual_seed(0)
    backend = choose_backend("auto", "auto")
    ours, plain = generalist(architecture, "cifar10", OBJECTIVES, backend), PlainLoop(architecture, backend.device)
    images, labels = minibatch("cifar10", batch_size, backend.device)
    assert ours.mixture is not None
    works = {
        "plain": partial(plain.step, images, labels),
        "ours": partial(ours.step, images, labels),
        "mixture": partial(ours.mixture.after_step, 1),
    }
    seconds = timed(works, backend.device, rounds)
    medians = {name: statistics.median(measured) for name, measured in seconds.items()}
    fastest = ratios(seconds["plain"], seconds["ours"])
    return {
        "plain_images_per_second": batch_size / medians["plain"],
        "our_images_per_second": batch_size / medians["ours"],
        "ratio_median": fastest["median"],
        "ratio_min": fastest["least"],
        "ratio_max": fastest["most"],
        "mixture_share_of_step": medians["mixture"] / medians["ours"],
        "attack_steps": STEPS,
        "bfloat16": backend.bfloat16,
    }


@benchmark(cases=["tiny"], rounds=1)
def methods(cases: Sequence[str] = ALL_CASES, rounds: int = 3) -> dict[str, Any]:
    """A training step of every method, by the engine and in the reference style, and its cost relative to AT.

    The reference style is the engine's own step on the same objectives with the habits of
    `benchmarks/reference_style.py`. AT takes its turn beside every method. Methods that change in the course of
    training are timed at their last epoch; a learner that rests in some epochs counts for its share of them. With
    ResNet-18 all methods, with the other networks NT, AT and Generalist; batches are small, since what is compared
    are ratios.
    """
    return {"architectures": {name: _measure_case(CASES[name], rounds) for name in cases}}


def _measure_case(case: Case, rounds: int) -> dict[str, Any]:
    """Every method of a case, and what they have in common."""
    params = suite(*case.overrides)
    training = params.experiment("at", params.seeds[0]).training
    backend = choose_backend("auto", training.precision, training.threads or THREADS)
    names = case.methods or tuple(params.methods)
    return {
        "dataset": params.data.name,
        "batch_size": case.batch_size,
        "suite_batch_size": training.batch_size,
        "epochs": training.epochs,
        "attack_steps": params.threat_model["linf"].steps,
        "threads": torch.get_num_threads(),
        "methods": {name: _measure_method(params, name, case.batch_size, backend, rounds) for name in names},
    }


def _measure_method(params: Params, name: str, batch_size: int, backend: Backend, rounds: int) -> dict[str, Any]:
    """Images per second of a method in both styles, and how they compare."""
    images, labels = minibatch(params.data.name, batch_size, backend.device)
    experiment = params.experiment(name, params.seeds[0])
    loops = {
        "at": Loop.of(params.experiment("at", params.seeds[0]), backend),
        "ours": Loop.of(experiment, backend),
        "reference": Loop.of(experiment, backend, HABITS),
    }
    for loop in (loops["at"], loops["ours"]):  # the slow one's first step is one of the timed, as the median allows
        loop.step(images, labels)
    seconds = in_turn({kind: loop.timer(images, labels) for kind, loop in loops.items()}, rounds)
    return {
        "label": params.methods[name].label,
        "images_per_second": rates(batch_size, seconds["ours"]),
        "reference_images_per_second": rates(batch_size, seconds["reference"]),
        "ratio": ratios(seconds["reference"], seconds["ours"]),
        "relative_to_at": ratios(seconds["ours"], seconds["at"]),
    }


@benchmark(architecture="small_cnn", batch_size=4, rounds=1)
def savings(architecture: str = "resnet18", batch_size: int = 32, rounds: int = 3) -> dict[str, Any]:
    """A step of Generalist-D (NT + linf) with one habit of plain code, and with all.

    Beside them a loop written by hand in that style, which all habits together should cost as much as. And the
    augmentation of a minibatch at once against torchvision's, image by image.
    """
    backend = choose_backend("auto", "auto")
    return {
        "habits": _measure_habits(architecture, batch_size, rounds, backend),
        "augmentation": _measure_augmentation(128, 5 * rounds, backend.device),
    }


def _measure_habits(architecture: str, batch_size: int, rounds: int, backend: Backend) -> dict[str, Any]:
    """Seconds with each habit relative to those without any, and of all of them to those of the plain loop."""
    params = suite("suite=cifar10", "competitors=none", f"architecture={architecture}")
    experiment = params.experiment(METHOD, params.seeds[0])
    images, labels = minibatch("cifar10", batch_size, backend.device)
    habits = [habit for habit in HABITS if not without_habit(habit, backend)]
    loops = {"none": Loop.of(experiment, backend)}
    loops |= {habit: Loop.of(experiment, backend, [habit]) for habit in habits}
    loops["all"] = Loop.of(experiment, backend, HABITS)
    plain = PlainLoop(architecture, backend.device)
    timers = {name: loop.timer(images, labels) for name, loop in loops.items()}
    timers["plain"] = timer(partial(plain.step, images, labels), backend.device)
    in_turn(timers, 1)
    seconds = in_turn(timers, rounds)
    return {
        "relative_to_none": {name: ratios(seconds[name], seconds["none"]) for name in loops if name != "none"},
        "reference_style_to_plain_loop": ratios(seconds["all"], seconds["plain"]),
    }


def _measure_augmentation(batch_size: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Images per second of random crops and mirror images."""
    settings = suite("suite=cifar10", "competitors=none").data.augmentation
    generator = torch.Generator(device=device).manual_seed(0)
    images = torch.randint(256, (batch_size, 3, 32, 32), generator=generator, device=device, dtype=torch.uint8)
    one_by_one = transforms.Compose(
        [transforms.RandomCrop(32, settings.crop_padding), transforms.RandomHorizontalFlip()]
    )
    works: dict[str, Callable[[], Tensor]] = {
        "batched": partial(augment, images, settings, generator),
        "image_by_image": lambda: torch.stack([one_by_one(image) for image in images]),
    }
    seconds = timed(works, device, rounds)
    return {"ratio": ratios(seconds["image_by_image"], seconds["batched"])}
