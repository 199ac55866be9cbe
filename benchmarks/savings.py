"""What each of the engine's ways saves: a step of Generalist-D (NT + linf) with one habit of plain code, and with all.

Beside them a loop written by hand in that style, which all habits together should cost as much as. And the
augmentation of a minibatch at once against torchvision's, image by image.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torchvision import transforms

from benchmarks.loops import Loop, minibatch, suite
from benchmarks.publishing import publish
from benchmarks.reference_style import HABITS, without_habit
from benchmarks.step import PlainLoop
from benchmarks.timing import Option, in_turn, rates, ratios, read_arguments, timer
from pipeline.core.devices import Backend, choose_backend
from pipeline.data.augmentation import augment

OPTIONS = {
    "architecture": Option("resnet18", "small_cnn", "one for images of CIFAR-10's shape"),
    "batch_size": Option(32, 4, "images of a step"),
    "rounds": Option(3, 1, "timed steps of each"),
}
METHOD = "generalist_d_nt_linf"
COMPILED = "torch.compile (no habit)"


def measure_habits(architecture: str, batch_size: int, rounds: int, backend: Backend) -> dict[str, Any]:
    """Seconds with each habit relative to those without any, and of all of them to those of the plain loop."""
    params = suite("suite=cifar10", "competitors=none", f"architecture={architecture}")
    experiment = params.experiment(METHOD, params.seeds[0])
    images, labels = minibatch("cifar10", batch_size, backend.device)
    habits = [habit for habit in HABITS if not without_habit(habit, backend)]
    loops = {"none": Loop.of(experiment, backend)}
    loops |= {habit: Loop.of(experiment, backend, [habit]) for habit in habits}
    loops["all"] = Loop.of(experiment, backend, HABITS)
    if backend.device.type == "cuda":  # on CPUs it compiles for minutes
        loops[COMPILED] = Loop.of(experiment, replace(backend, compiled=True))
    plain = PlainLoop(architecture, backend.device)
    timers = {name: loop.timer(images, labels) for name, loop in loops.items()}
    timers["plain"] = timer(partial(plain.step, images, labels), backend.device)
    in_turn(timers, 1)
    seconds = in_turn(timers, rounds)
    return {
        "images_per_second": {name: rates(batch_size, values) for name, values in seconds.items()},
        "relative_to_none": {name: ratios(seconds[name], seconds["none"]) for name in loops if name != "none"},
        "reference_style_to_plain_loop": ratios(seconds["all"], seconds["plain"]),
    }


def measure_augmentation(batch_size: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Images per second of random crops and mirror images."""
    settings = suite("suite=cifar10", "competitors=none").data.augmentation
    generator = torch.Generator(device=device).manual_seed(0)
    images = torch.randint(256, (batch_size, 3, 32, 32), generator=generator, device=device, dtype=torch.uint8)
    one_by_one = transforms.Compose(
        [transforms.RandomCrop(32, settings.crop_padding), transforms.RandomHorizontalFlip()]
    )
    timers = {
        "batched": timer(partial(augment, images, settings, generator), device),
        "image_by_image": timer(lambda: torch.stack([one_by_one(image) for image in images]), device),
    }
    in_turn(timers, 1)
    seconds = in_turn(timers, rounds)
    return {
        "images_per_second": {name: rates(batch_size, values) for name, values in seconds.items()},
        "ratio": ratios(seconds["image_by_image"], seconds["batched"]),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "savings", OPTIONS, arguments)
    backend = choose_backend("auto", "auto")
    result = {
        "habits": measure_habits(given.architecture, given.batch_size, given.rounds, backend),
        "augmentation": measure_augmentation(128, 5 * given.rounds, backend.device),
        "architecture": given.architecture,
        "batch_size": given.batch_size,
        "bfloat16": backend.bfloat16,
        "rounds": given.rounds,
    }
    publish(given.output, result, backend.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
