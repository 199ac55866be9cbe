"""How the time of a training step grows. Under torchrun, this module is one process of a job that is timed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.frame import Option, benchmark, in_turn, rates, spread
from benchmarks.loops import EPSILON, REPOSITORY, STEPS, Loop, generalist, minibatch, suite
from pipeline.core.devices import Backend, choose_backend
from pipeline.core.errors import Interrupted
from pipeline.core.files import write_json
from pipeline.data.images import ImageSet, ImageSplit
from pipeline.training.distributed import joined
from pipeline.training.loop import train
from pipeline.training.observer import Silent

METHOD, LEARNERS = "generalist_d_linf_l2", 2
"""What processes train together, and how many learners it has."""
TIMED_STEPS = 3
NATURAL: dict[str, Any] = {"name": "natural"}
Measured = dict[int, dict[str, Any]]


@benchmark(
    architecture=Option("resnet18", "small_cnn", "one for images of CIFAR-10's shape"),
    batch_sizes=Option([8, 16, 32, 64, 128], [2, 4], "images of a step"),
    batch_size=Option(16, 4, "images of a step where something else varies"),
    attack_steps=Option([1, 5, 10, 20], [1, 2], "of PGD; natural training is measured as 0"),
    learners=Option([2, 3, 5, 8], [2, 3], "how many"),
    processes=Option([1, 2], [1, 2], "how many; on CUDA at most as many as there are GPUs"),
    shared_batch_size=Option(16, 8, "images of the minibatch that processes share"),
    rounds=Option(3, 1, "timings of each"),
)
def scaling(given: Namespace) -> dict[str, Any]:
    """How the time of a training step grows with images, attack steps, learners and processes.

    Images and attack steps: AT. Learners: a Generalist of so many linf learners with budgets of their own. Processes:
    the whole loop of `pipeline.training` under torchrun with Generalist-D (linf + l2), data parallel and learner
    parallel, one thread each on a CPU, one GPU each on CUDA; jobs take turns. Everything else takes turns in this
    process.
    """
    backend = choose_backend("auto", "auto")
    return {
        **_in_this_process(given, backend),
        **_in_several(given, torch.cuda.device_count() if backend.device.type == "cuda" else max(given.processes)),
        "settings": {key: getattr(given, key) for key in ("architecture", "batch_size", "shared_batch_size", "rounds")},
        "bfloat16": backend.bfloat16,
    }


def _in_this_process(given: Namespace, backend: Backend) -> dict[str, Measured]:
    """What grows with images, attack steps and learners."""

    def loop(*objectives: dict[str, Any]) -> Loop:
        named = {f"learner_{number}": objective for number, objective in enumerate(objectives)}
        return generalist(given.architecture, "cifar10", named, backend)

    def times(loops: dict[int, Loop], batch_sizes: dict[int, int]) -> Measured:
        timers = {key: one.timer(*minibatch("cifar10", batch_sizes[key], backend.device)) for key, one in loops.items()}
        in_turn(timers, 1)
        return _with_rates(in_turn(timers, given.rounds), batch_sizes)

    at = loop(_adversarial())
    by_steps = {0: loop(NATURAL)} | {steps: loop(_adversarial(steps=steps)) for steps in given.attack_steps}
    by_learners = {
        count: loop(*(_adversarial(EPSILON * (number + 1) / count) for number in range(count)))
        for count in given.learners
    }
    return {
        "batch_size": times(dict.fromkeys(given.batch_sizes, at), {size: size for size in given.batch_sizes}),
        "attack_steps": times(by_steps, dict.fromkeys(by_steps, given.batch_size)),
        "learners": times(by_learners, dict.fromkeys(by_learners, given.batch_size)),
    }


def _adversarial(epsilon: float = EPSILON, steps: int = STEPS) -> dict[str, Any]:
    """Training against PGD in linf; the size of its steps is of no matter here."""
    return {"name": "adversarial", "norm": "linf", "attack": {"epsilon": epsilon, "steps": steps}}


def _with_rates(seconds: Mapping[int, list[float]], batch_sizes: Mapping[int, int]) -> Measured:
    return {
        key: {"seconds": spread(values), "images_per_second": rates(batch_sizes[key], values)}
        for key, values in seconds.items()
    }


def _in_several(given: Namespace, most: int) -> dict[str, Measured]:
    """Jobs of so many processes, at most `most`, and one of a process for each learner."""
    counts = [count for count in given.processes if count <= most]
    kinds = {"processes": counts, "learner_parallel": [count for count in counts if count == LEARNERS]}
    jobs = {(kind, count): partial(_job, given, kind, count) for kind, those in kinds.items() for count in those}
    seconds = in_turn(jobs, given.rounds)
    sizes = dict.fromkeys(counts, given.shared_batch_size)
    return {kind: _with_rates({count: seconds[kind, count] for count in kinds[kind]}, sizes) for kind in kinds}


def _job(given: Namespace, kind: str, count: int) -> float:
    """The median seconds of a step of a job."""
    with TemporaryDirectory() as folder:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        arguments = [given.architecture, str(given.shared_batch_size), kind, folder]
        command = [sys.executable, "-m", *torchrun, "-m", "benchmarks.scaling", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise SystemExit(f"{count} processes failed with exit code {result.returncode}:\n{result.stderr}")
        return float(json.loads((Path(folder) / "seconds.json").read_text()))


class Watch(Silent):
    """Remembers how fast the steps were."""

    def __init__(self) -> None:
        self.images_per_second: list[float] = []

    def on_step(self, epoch: int, step: int, losses: Mapping[str, float], images_per_second: float) -> None:
        """A step has ended."""
        self.images_per_second.append(images_per_second)

    def is_done(self) -> str | None:
        """Why to stop, when there is a reason."""
        return "measured" if len(self.images_per_second) > TIMED_STEPS else None


def one_process(architecture: str, batch_size: int, kind: str, folder: Path) -> None:
    """Train for some steps; the first process writes the median seconds of one, the first one left out."""
    overrides = ("suite=cifar10", f"architecture={architecture}", "competitors=none")
    experiment = suite(*overrides, f"training.batch_size={batch_size}").experiment(METHOD, 1)
    backend, count = choose_backend("auto", "auto", threads=1), (TIMED_STEPS + 2) * batch_size
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=noise, dtype=torch.uint8)
    images, watch = ImageSet(pixels, torch.arange(count) % 10), Watch()
    split = ImageSplit(images, images, images, digest="")
    with joined(backend.device) as ranks:
        with suppress(Interrupted):
            train(experiment, split, backend, folder, watch, watch.is_done, ranks, kind == "learner_parallel")
        if ranks.is_first:
            write_json(folder / "seconds.json", batch_size / statistics.median(watch.images_per_second[1:]))


if __name__ == "__main__":
    one_process(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
