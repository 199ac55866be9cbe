"""One training step of Generalist-D (NT + linf) against a plain loop, timed in turn in one process.

The plain loop does what the authors' published code does: float32, channels first, parameter gradients computed while
crafting, three weight averages by cloning state dicts, a forward pass per learner for the progress meter. Both do the
same number of attack steps on the same images. Rounds alternate, so that a noisy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.attacks.predictions import channels_last
from pipeline.config import LearnerSettings, MovingAverageSettings
from pipeline.devices import choose_backend
from pipeline.files import write_json
from pipeline.models import build_model
from pipeline.objectives import Moment
from pipeline.provenance import git_commit, versions
from pipeline.training.learner import Learner
from pipeline.training.mixture import GlobalLearner

EPSILON, STEP_SIZE, STEPS, BATCH = 8 / 255, 2 / 255, 10, 128
RATIO = 0.5
THREAT_MODEL = {"linf": {"epsilon": EPSILON, "step_size": STEP_SIZE, "steps": STEPS}}
Step = Callable[[Tensor, Tensor], None]


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

    def __call__(self, images: Tensor, labels: Tensor) -> None:
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


class OurLoop:
    """The same step by the project's engine."""

    def __init__(self, architecture: str) -> None:
        self.backend = choose_backend("auto", "auto")
        self.learners = [
            self._learner(architecture, "linf", {"name": "adversarial", "norm": "linf"}),
            self._learner(architecture, "natural", {"name": "natural"}),
        ]
        content = {
            "rule": "moving_average",
            "breakpoints": [0],
            "mixing_ratios": {"linf": [RATIO], "natural": [1 - RATIO]},
            "decay": 0.999,
        }
        settings = MovingAverageSettings.model_validate({**content, "warmup_epochs": 1, "communication_interval": 1})
        self.mixture = GlobalLearner(settings, self.learners)
        self.moment = Moment(1, 1, torch.Generator(device=self.backend.device).manual_seed(0))

    def _learner(self, architecture: str, name: str, objective: dict[str, Any]) -> Learner:
        content = {
            "objective": objective,
            "optimizer": {"name": "sgd", "learning_rate": 0.01, "weight_decay": 5e-4},
            "schedule": {"epochs": [0], "values": [1]},
        }
        settings = LearnerSettings.model_validate(content, context={"threat_model": THREAT_MODEL})
        model = build_model(architecture, "cifar10").to(self.backend.device).to(memory_format=torch.channels_last)
        return Learner(name, settings, model, self.backend)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """One step of both learners and the mixture."""
        images = channels_last(images)
        for learner in self.learners:
            learner.step(images, labels, self.moment)
        self.mixture.update(1)


def seconds(step: Step, images: Tensor, labels: Tensor) -> float:
    """Wall time of one step, with the device idle before and after."""
    _synchronize(images.device)
    started = time.perf_counter()
    step(images, labels)
    _synchronize(images.device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compare(architecture: str, rounds: int) -> dict[str, Any]:
    """Time both loops in turn, after one warm-up step each."""
    torch.manual_seed(0)
    ours = OurLoop(architecture)
    plain = PlainLoop(architecture, ours.backend.device)
    images = torch.rand(BATCH, 3, 32, 32, device=ours.backend.device)
    labels = torch.randint(10, (BATCH,), device=ours.backend.device)
    for step in (plain, ours):
        seconds(step, images, labels)
    times = [(seconds(plain, images, labels), seconds(ours, images, labels)) for _ in range(rounds)]
    ratios = [slow / fast for slow, fast in times]
    mixture = statistics.median(seconds(lambda *_: ours.mixture.update(1), images, labels) for _ in range(5))
    return {
        "plain_images_per_second": BATCH / statistics.median(slow for slow, _ in times),
        "our_images_per_second": BATCH / statistics.median(fast for _, fast in times),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "mixture_share_of_step": mixture / statistics.median(fast for _, fast in times),
        "rounds": rounds,
        "architecture": architecture,
        "batch_size": BATCH,
        "attack_steps": STEPS,
        "bfloat16": ours.backend.bfloat16,
        "device": _device_name(ours.backend.device),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        **versions(),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {', '.join(sorted(_instruction_sets()))}"


def _instruction_sets() -> set[str]:
    wanted = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")
    return {name for name in wanted if torch.cpu.get_capabilities().get(name)}


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnet18", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each loop (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/step.json"), help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    result = compare(given.architecture, given.rounds)
    write_json(given.output, result)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
