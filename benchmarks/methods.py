"""Cost of one training step of every method relative to AT, timed in turn in one process.

ResNet-18 on CIFAR-10's shapes with the papers' ten attack steps; every round times each method once, so that a noisy
machine slows all of them. Methods that change in the course of training are timed at their last epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmarks.step import seconds
from pipeline.config import Experiment, parse_params
from pipeline.devices import Backend, choose_backend
from pipeline.files import write_json
from pipeline.models import build_model
from pipeline.objectives import Moment
from pipeline.provenance import git_commit, versions
from pipeline.training.learner import Learner
from stages.compose import compose


def step_of(experiment: Experiment, backend: Backend) -> Callable[[Tensor, Tensor], None]:
    """One step of all learners of a method, at the last epoch."""
    learners = []
    for name, settings in experiment.method.learners.items():
        model = build_model(experiment.architecture, experiment.data.name).to(backend.device)
        learners.append(Learner(name, settings, model.to(memory_format=torch.channels_last), backend))
    epochs = experiment.training.epochs
    noise = torch.Generator(device=backend.device).manual_seed(0)

    def step(images: Tensor, labels: Tensor) -> None:
        for learner in learners:
            learner.step(images, labels, Moment(epochs, epochs, noise, learner.memory))

    return step


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each method (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/methods.json"))
    given = parser.parse_args(arguments)
    params = parse_params(yaml.safe_load(compose(["suite=cifar10", "competitors=all"], Path("conf"))))
    backend = choose_backend("auto", "auto")
    images = torch.rand(given.batch_size, 3, 32, 32, device=backend.device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.arange(given.batch_size, device=backend.device) % 10
    steps = {name: step_of(params.experiment(name, params.seeds[0]), backend) for name in params.methods}
    for step in steps.values():
        seconds(step, images, labels)
    rounds = [{name: seconds(step, images, labels) for name, step in steps.items()} for _ in range(given.rounds)]
    relative = {name: statistics.median(times[name] / times["at"] for times in rounds) for name in steps}
    result = {
        "relative_to_at": relative,
        "rounds": given.rounds,
        "batch_size": given.batch_size,
        "device": str(backend.device),
        "git_commit": git_commit(),
        **versions(),
    }
    write_json(given.output, result)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
