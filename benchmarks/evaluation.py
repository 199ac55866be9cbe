"""PGD-20 on test images: images per second by batch size, and from which batch size on larger ones gain nothing.

The batch is doubled until that makes it less than 5 % faster, or until twice the memory would not be there. The batch
size that is suggested for `evaluation.batch_size` is a suggestion: it belongs to the address of an evaluation, so that
another one means to attack again.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import torch

from benchmarks.loops import THREADS, suite
from benchmarks.publishing import publish
from benchmarks.timing import Option, in_turn, rates, ratios, read_arguments, timer
from pipeline.config import Params, SingleAttack
from pipeline.core.datasets import DATASETS
from pipeline.core.devices import Backend, choose_backend
from pipeline.data.images import ImageSet
from pipeline.evaluation.predictions import Attack, predictions
from pipeline.models import build_model

OPTIONS = {
    "suites": Option(["digits", "cifar10"], ["digits"], "whose network, images and attack"),
    "first": Option(16, 4, "images of the smallest batch"),
    "most": Option(1024, 8, "images of the largest batch"),
    "rounds": Option(3, 1, "timings of each"),
}
ATTACK = "pgd20_linf"
WORTH_IT = 1.05
"""How much faster twice the batch must be."""

Seconds = dict[int, list[float]]


def probe(
    time_pair: Callable[[int], Seconds], fits: Callable[[], bool], first: int, most: int
) -> tuple[int, str, dict[int, Any]]:
    """Double the batch size while that pays.

    Args:
        time_pair: Seconds of a batch of this size and of one of twice the size, in rounds that alternate.
        fits: Whether twice the memory of the largest batch so far is there.
        first: Where to begin.
        most: No batch is larger.

    Returns:
        The size that is suggested, why no larger one, and by size what was measured: images per second, and by which
        factor they are more than with half the size.
    """
    measured: dict[int, Any] = {}
    size = first
    while 2 * size <= most:
        if not fits():
            return size, "twice the memory is not there", measured
        pair = time_pair(size)
        growth = ratios([2 * seconds for seconds in pair[size]], pair[2 * size])
        measured.setdefault(size, {"images_per_second": rates(size, pair[size])})
        measured[2 * size] = {"images_per_second": rates(2 * size, pair[2 * size]), "growth": growth}
        if growth["median"] < WORTH_IT:
            return size, "twice as many are no faster", measured
        size *= 2
    return size, "larger ones were not tried", measured


class Memory:
    """What this process has needed since it was asked first, against what the machine still has."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = self._used()

    def allows_twice(self) -> bool:
        """Whether as much again as was needed so far is free."""
        needed = self._used() - self._before
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            return needed < free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return bool(needed < psutil.virtual_memory().available)

    def _used(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_suite(params: Params, first: int, most: int, rounds: int) -> dict[str, Any]:
    """A probe with the suite's network, which is not trained: PGD takes all its steps in any case."""
    backend = Backend(choose_backend("auto", "float32", params.training.threads or THREADS).device, bfloat16=False)
    model = build_model(params.model.architecture, params.data.name, params.model.normalization)
    model = backend.place(model)
    attack, memory = params.evaluation.attacks[ATTACK], Memory(backend.device)
    assert isinstance(attack, SingleAttack)

    def time_pair(size: int) -> Seconds:
        images = _images(params.data.name, 2 * size, backend.device)
        timers = {
            count: timer(partial(_attack, model, images, attack, backend, count), backend.device)
            for count in (size, 2 * size)
        }
        in_turn(timers, 1)
        return in_turn(timers, rounds)

    size, reason, measured = probe(time_pair, memory.allows_twice, first, most)
    print(f"{params.suite}: evaluation.batch_size {size} is suggested ({reason})", file=sys.stderr, flush=True)
    return {
        "architecture": params.model.architecture,
        "attack": ATTACK,
        "threads": torch.get_num_threads(),
        "suggested_batch_size": size,
        "reason": reason,
        "configured_batch_size": params.evaluation.batch_size,
        "batch_sizes": measured,
    }


def _images(dataset: str, count: int, device: torch.device) -> ImageSet:
    facts, noise = DATASETS[dataset], torch.Generator().manual_seed(0)
    shape = (count, facts.channels, facts.size, facts.size)
    images = torch.randint(256, shape, generator=noise, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % len(facts.classes)).to(device)


def _attack(model: torch.nn.Module, images: ImageSet, attack: Attack, backend: Backend, count: int) -> None:
    predictions(model, images, attack, seed=0, backend=backend, batch_size=count, batches=1)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "evaluation", OPTIONS, arguments)
    found = {}
    for name in given.suites:
        params = suite(f"suite={name}", "competitors=none")
        found[name] = measure_suite(params, given.first, given.most, given.rounds)
    publish(given.output, {"suites": found, "rounds": given.rounds}, choose_backend("auto", "auto").device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
