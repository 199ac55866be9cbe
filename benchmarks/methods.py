"""Cost of one training step of every method relative to AT, timed in turn in one process.

ResNet-18 on CIFAR-10's shapes with the papers' ten attack steps; every round times each method once, so that a noisy
machine slows all of them. Methods that change in the course of training are timed at their last epoch; a learner that
rests in some epochs counts for its share of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmarks.publishing import publish
from benchmarks.step import seconds
from pipeline.config import Experiment, parse_params
from pipeline.devices import Backend, choose_backend
from pipeline.objectives import Moment
from pipeline.training.learner import Learner
from pipeline.training.loop import build_learner, build_mixture
from stages.compose import compose

Step = Callable[[Tensor, Tensor], None]


def steps_of(experiment: Experiment, backend: Backend) -> list[tuple[float, Step]]:
    """For every learner the share of the epochs in which it trains, and its step at the last epoch."""
    learners = [build_learner(experiment, name, backend) for name in experiment.method.learners]
    epochs, settings = experiment.training.epochs, experiment.method.mixture
    if settings is not None:
        build_mixture(settings, learners, epochs)
    noise = torch.Generator(device=backend.device).manual_seed(0)

    def step(learner: Learner) -> Step:
        def run(images: Tensor, labels: Tensor) -> None:
            learner.step(images, labels, Moment(epochs, epochs, noise, learner.memory))

        return run

    def share(learner: Learner) -> float:
        return sum(settings is None or settings.trains(learner.name, epoch + 1) for epoch in range(epochs)) / epochs

    return [(share(learner), step(learner)) for learner in learners]


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each method (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/methods.json"))
    given = parser.parse_args(arguments)
    params = parse_params(yaml.safe_load(compose(["suite=cifar10"], Path("conf"))))
    backend = choose_backend("auto", "auto")
    images = torch.rand(given.batch_size, 3, 32, 32, device=backend.device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.arange(given.batch_size, device=backend.device) % 10
    methods = {name: steps_of(params.experiment(name, params.seeds[0]), backend) for name in params.methods}

    def measure() -> dict[str, float]:
        return {
            name: sum(share * seconds(step, images, labels) for share, step in steps) for name, steps in methods.items()
        }

    measure()
    rounds = [measure() for _ in range(given.rounds)]
    relative = {name: statistics.median(times[name] / times["at"] for times in rounds) for name in methods}
    result = {
        "relative_to_at": relative,
        "rounds": given.rounds,
        "batch_size": given.batch_size,
        "device": str(backend.device),
    }
    publish(given.output, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
