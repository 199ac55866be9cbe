"""How the time of a training step grows. Under torchrun, this module is one process of a job that is timed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.frame import benchmark, in_turn, rates, spread
from benchmarks.loops import EPSILON, REPOSITORY, STEPS, Loop, generalist, minibatch, suite
from pipeline.core.devices import choose_backend
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
    architecture="small_cnn",
    batch_sizes=[2, 4],
    batch_size=4,
    attack_steps=[1, 2],
    learners=[2, 3],
    shared_batch_size=8,
    rounds=1,
)
def scaling(
    architecture: str = "resnet18",
    batch_sizes: Sequence[int] = (8, 16, 32, 64, 128),
    batch_size: int = 16,
    attack_steps: Sequence[int] = (1, 5, 10, 20),
    learners: Sequence[int] = (2, 3, 5, 8),
    processes: Sequence[int] = (1, 2),
    shared_batch_size: int = 16,
    rounds: int = 3,
) -> dict[str, Any]:
    """How the time of a training step grows with images, attack steps, learners and processes.

    Images and attack steps: AT. Learners: a Generalist of so many linf learners with budgets of their own. Processes:
    the whole loop of `pipeline.training` under torchrun with Generalist-D (linf + l2), data parallel and learner
    parallel, one thread each on a CPU, one GPU each on CUDA; jobs take turns. Everything else takes turns in this
    process.
    """
    backend = choose_backend("auto", "auto")

    def loop(*objectives: dict[str, Any]) -> Loop:
        named = {f"learner_{number}": objective for number, objective in enumerate(objectives)}
        return generalist(architecture, "cifar10", named, backend)

    def times(loops: dict[int, Loop], sizes: dict[int, int]) -> Measured:
        timers = {key: one.timer(*minibatch("cifar10", sizes[key], backend.device)) for key, one in loops.items()}
        in_turn(timers, 1)
        return _with_rates(in_turn(timers, rounds), sizes)

    at = loop(_adversarial())
    by_steps = {0: loop(NATURAL)} | {steps: loop(_adversarial(steps=steps)) for steps in attack_steps}
    by_learners = {
        count: loop(*(_adversarial(EPSILON * (number + 1) / count) for number in range(count))) for count in learners
    }
    most = torch.cuda.device_count() if backend.device.type == "cuda" else max(processes)
    kinds = {"processes": [count for count in processes if count <= most]}
    kinds["learner_parallel"] = [count for count in kinds["processes"] if count == LEARNERS]
    jobs = {
        (kind, count): partial(_job, architecture, shared_batch_size, kind, count)
        for kind, counts in kinds.items()
        for count in counts
    }
    measured = {
        "batch_size": times(dict.fromkeys(batch_sizes, at), {size: size for size in batch_sizes}),
        "attack_steps": times(by_steps, dict.fromkeys(by_steps, batch_size)),
        "learners": times(by_learners, dict.fromkeys(by_learners, batch_size)),
    }
    seconds, sizes = in_turn(jobs, rounds), dict.fromkeys(processes, shared_batch_size)
    return {
        **measured,
        **{kind: _with_rates({count: seconds[kind, count] for count in kinds[kind]}, sizes) for kind in kinds},
        "settings": {"architecture": architecture, "batch_size": batch_size, "shared_batch_size": shared_batch_size},
    }


def _adversarial(epsilon: float = EPSILON, steps: int = STEPS) -> dict[str, Any]:
    """Training against PGD in linf; the size of its steps is of no matter here."""
    return {"name": "adversarial", "norm": "linf", "attack": {"epsilon": epsilon, "steps": steps}}


def _with_rates(seconds: Mapping[int, list[float]], batch_sizes: Mapping[int, int]) -> Measured:
    return {
        key: {"seconds": spread(values), "images_per_second": rates(batch_sizes[key], values)}
        for key, values in seconds.items()
    }


def _job(architecture: str, batch_size: int, kind: str, count: int) -> float:
    """The median seconds of a step of a job."""
    with TemporaryDirectory() as folder:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        arguments = [architecture, str(batch_size), kind, folder]
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
