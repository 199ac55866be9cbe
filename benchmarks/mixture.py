"""What the global learner costs: a whole step of Generalist-T against its learners alone, and the mixture by itself.

The mixture is timed for every network and number of learners, as seconds and as bytes that it reads and writes, beside
a plain copy of as many bytes and beside the same average by cloning. It reads and writes the average once to scale it
(2 passes over the weights), and with every learner it reads both and writes the average (3 more).
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch

from benchmarks.loops import Loop, generalist, minibatch
from benchmarks.publishing import publish
from benchmarks.reference_style import averages_by_cloning
from benchmarks.timing import Option, in_turn, rates, ratios, read_arguments, spread, timer
from pipeline.core.devices import Backend, choose_backend
from pipeline.training.weights import weight_tensors

DATASETS = {
    "small_cnn": "digits",
    "resnet18": "cifar10",
    "wrn32_10": "cifar10",
    "resnet50": "imagenet",
    "wrn50_2": "imagenet",
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "natural": {"name": "natural"},
    "linf": {"name": "adversarial", "norm": "linf"},
    "l2": {"name": "adversarial", "norm": "l2"},
}
OPTIONS = {
    "architecture": Option("resnet18", "small_cnn", "of the whole step, on images of CIFAR-10's shape"),
    "batch_size": Option(64, 4, "images of the whole step"),
    "architectures": Option(list(DATASETS), ["small_cnn"], f"of the mixture alone: {', '.join(DATASETS)}"),
    "learners": Option([2, 3, 5, 8], [2, 3], "how many are mixed"),
    "rounds": Option(5, 1, "timings of each"),
}
LEAST_BYTES = 2**28
"""The least size of the plain copy: more than the processor's caches hold."""


def whole_and_parts(architecture: str, batch_size: int, rounds: int, backend: Backend) -> dict[str, Any]:
    """A step of Generalist-T, and those of three on their own."""
    images, labels = minibatch("cifar10", batch_size, backend.device)
    whole = generalist(architecture, "cifar10", OBJECTIVES, backend)
    alone = {
        name: Loop(generalist(architecture, "cifar10", {name: objective}, backend).learners, None, backend)
        for name, objective in OBJECTIVES.items()
    }
    timers = {
        name: timer(partial(loop.step, images, labels), backend.device)
        for name, loop in {"whole": whole, **alone}.items()
    }
    assert whole.mixture is not None
    timers["mixture"] = timer(partial(whole.mixture.after_step, 1), backend.device)
    in_turn(timers, 1)
    seconds = in_turn(timers, rounds)
    sums = [sum(values) for values in zip(*(seconds[name] for name in OBJECTIVES), strict=True)]
    return {
        "ratio": ratios(seconds["whole"], sums),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "mixture_share": ratios(seconds["mixture"], seconds["whole"]),
        "architecture": architecture,
        "batch_size": batch_size,
    }


def mixture_alone(architecture: str, learners: int, rounds: int, backend: Backend) -> dict[str, Any]:
    """An update of the global learner of so many networks."""
    objectives = {f"learner_{number}": {"name": "natural"} for number in range(learners)}
    mixture = generalist(architecture, DATASETS[architecture], objectives, backend).mixture
    assert mixture is not None
    size = sum(tensor.nbytes for tensor in weight_tensors(mixture.model))
    moved = (2 + 3 * learners) * size
    source = torch.zeros(max(size, LEAST_BYTES), dtype=torch.uint8, device=backend.device)
    target = torch.empty_like(source)

    def by_cloning() -> None:
        with averages_by_cloning():
            mixture.after_step(1)

    timers = {
        "ours": timer(partial(mixture.after_step, 1), backend.device),
        "cloning": timer(by_cloning, backend.device),
        "copy": timer(lambda: target.copy_(source), backend.device),
    }
    in_turn(timers, 1)
    seconds = in_turn(timers, rounds)
    return {
        "weights_megabytes": size / 1e6,
        "seconds": spread(seconds["ours"]),
        "gigabytes_per_second": rates(moved / 1e9, seconds["ours"]),
        "copy_gigabytes_per_second": rates(2 * source.nbytes / 1e9, seconds["copy"]),
        "cloning_ratio": ratios(seconds["cloning"], seconds["ours"]),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "mixture", OPTIONS, arguments)
    backend = choose_backend("auto", "auto")
    result = {
        "generalist_t": whole_and_parts(given.architecture, given.batch_size, given.rounds, backend),
        "mixture": {
            name: {count: mixture_alone(name, count, given.rounds, backend) for count in given.learners}
            for name in given.architectures
        },
        "rounds": given.rounds,
    }
    publish(given.output, result, backend.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
