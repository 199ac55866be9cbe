"""A training step of every method, by the engine and in the reference style: images per second, cost relative to AT.

The reference style is the engine's own step on the same objectives with the habits of `benchmarks.reference_style`. AT
takes its turn beside every method. Methods that change in the course of training are timed at their last epoch; a
learner that rests in some epochs counts for its share of them. With ResNet-18 all methods, with the other networks NT,
AT and Generalist; batches are small, since what is compared are ratios.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch

from benchmarks.loops import Loop, backend_for, minibatch, suite
from benchmarks.publishing import publish
from benchmarks.reference_style import HABITS
from benchmarks.timing import Option, in_turn, rates, ratios, read_arguments
from pipeline.config import Params
from pipeline.core.devices import Backend, choose_backend

FEW = ("nt", "at", "generalist_d_nt_linf", "generalist_t")


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
OPTIONS = {
    "cases": Option([name for name in CASES if name != "tiny"], ["tiny"], f"some of {', '.join(CASES)}"),
    "rounds": Option(3, 1, "timed steps of each"),
}


def measure_case(case: Case, rounds: int) -> dict[str, Any]:
    """Every method of a case, and what they have in common."""
    params = suite(*case.overrides)
    experiment = params.experiment("at", params.seeds[0])
    backend = backend_for(experiment)
    names = case.methods or tuple(params.methods)
    return {
        "suite": params.suite,
        "dataset": params.data.name,
        "batch_size": case.batch_size,
        "suite_batch_size": experiment.training.batch_size,
        "epochs": experiment.training.epochs,
        "attack_steps": params.threat_model["linf"].steps,
        "bfloat16": backend.bfloat16,
        "threads": torch.get_num_threads(),
        "methods": {name: measure_method(params, name, case.batch_size, backend, rounds) for name in names},
    }


def measure_method(params: Params, name: str, batch_size: int, backend: Backend, rounds: int) -> dict[str, Any]:
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
    print(f"{params.suite}, {experiment.architecture}, {name}: measured", file=sys.stderr, flush=True)
    return {
        "label": params.methods[name].label,
        "learners": len(loops["ours"].learners),
        "images_per_second": rates(batch_size, seconds["ours"]),
        "reference_images_per_second": rates(batch_size, seconds["reference"]),
        "ratio": ratios(seconds["reference"], seconds["ours"]),
        "relative_to_at": ratios(seconds["ours"], seconds["at"]),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "methods", OPTIONS, arguments)
    result = {
        "architectures": {name: measure_case(CASES[name], given.rounds) for name in given.cases},
        "rounds": given.rounds,
    }
    publish(given.output, result, choose_backend("auto", "auto").device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
