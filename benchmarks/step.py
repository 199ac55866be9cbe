"""One training step of Generalist-D (NT + linf) against a plain loop, timed in turn in one process.

The plain loop does what the authors' published code does: float32, channels first, parameter gradients computed while
crafting, three weight averages by cloning state dicts, a forward pass per learner for the progress meter. Both do the
same number of attack steps on the same images. Rounds alternate, so that a noisy machine slows both.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.loops import EPSILON, STEP_SIZE, STEPS, Loop, generalist, minibatch
from benchmarks.publishing import publish
from benchmarks.timing import Option, in_turn, ratios, read_arguments, spread, timer
from pipeline.core.devices import Backend, choose_backend
from pipeline.models import build_model

OPTIONS = {
    "architecture": Option("resnet18", "small_cnn", "one for images of CIFAR-10's shape"),
    "batch_size": Option(128, 4, "images of a step"),
    "rounds": Option(5, 1, "timed steps of each loop"),
}
RATIO = 0.5
OBJECTIVES = {"linf": {"name": "adversarial", "norm": "linf"}, "natural": {"name": "natural"}}


class PlainLoop:
    """The reference style: what a step costs when nothing is spared."""

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
        mixed = {name: RATIO * first[name] + (1 - RATIO) * second[name] for name in first}
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


def our_loop(architecture: str, backend: Backend) -> Loop:
    """The same step by the project's engine."""
    return generalist(architecture, "cifar10", OBJECTIVES, backend)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "step", OPTIONS, arguments)
    torch.manual_seed(0)
    backend = choose_backend("auto", "auto")
    ours = our_loop(given.architecture, backend)
    plain = PlainLoop(given.architecture, backend.device)
    images, labels = minibatch("cifar10", given.batch_size, backend.device)
    plain.step(images, labels)
    ours.step(images, labels)
    assert ours.mixture is not None
    seconds = in_turn(
        {
            "plain": timer(partial(plain.step, images, labels), backend.device),
            "ours": timer(partial(ours.step, images, labels), backend.device),
            "mixture": timer(partial(ours.mixture.after_step, 1), backend.device),
        },
        given.rounds,
    )
    fastest = ratios(seconds["plain"], seconds["ours"])
    result = {
        "plain_images_per_second": given.batch_size / statistics.median(seconds["plain"]),
        "our_images_per_second": given.batch_size / statistics.median(seconds["ours"]),
        "ratio_median": fastest["median"],
        "ratio_min": fastest["least"],
        "ratio_max": fastest["most"],
        "mixture_share_of_step": spread(seconds["mixture"])["median"] / statistics.median(seconds["ours"]),
        "rounds": given.rounds,
        "architecture": given.architecture,
        "batch_size": given.batch_size,
        "attack_steps": STEPS,
        "bfloat16": backend.bfloat16,
    }
    publish(given.output, result, backend.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
