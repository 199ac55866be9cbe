"""How the time of a training step grows with images, attack steps, learners and processes.

Images and attack steps: AT. Learners: a Generalist of so many linf learners with budgets of their own. Processes: the
whole loop of `pipeline.training` under torchrun with Generalist-D (linf + l2), data parallel and learner parallel, one
thread each on a CPU, one GPU each on CUDA; jobs take turns. Everything else takes turns in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.loops import EPSILON, STEPS, Loop, generalist, minibatch
from benchmarks.publishing import publish
from benchmarks.ranks import DATA_PARALLEL, LEARNER_PARALLEL
from benchmarks.timing import Option, in_turn, rates, read_arguments, spread
from pipeline.core.devices import Backend, choose_backend

OPTIONS = {
    "architecture": Option("resnet18", "small_cnn", "one for images of CIFAR-10's shape"),
    "batch_sizes": Option([8, 16, 32, 64, 128], [2, 4], "images of a step"),
    "batch_size": Option(16, 4, "images of a step where something else varies"),
    "attack_steps": Option([1, 5, 10, 20], [1, 2], "of PGD; natural training is measured as 0"),
    "learners": Option([2, 3, 5, 8], [2, 3], "how many"),
    "processes": Option([1, 2], [1, 2], "how many; on CUDA at most as many as there are GPUs"),
    "shared_batch_size": Option(16, 8, "images of the minibatch that processes share"),
    "rounds": Option(3, 1, "timings of each"),
}
LEARNERS = 2
"""Learners of the method that processes train."""
NATURAL: dict[str, Any] = {"name": "natural"}
REPOSITORY = Path(__file__).resolve().parent.parent


def adversarial(epsilon: float = EPSILON, steps: int = STEPS) -> dict[str, Any]:
    """Training against PGD in linf; the size of its steps is of no matter here."""
    return {"name": "adversarial", "norm": "linf", "attack": {"epsilon": epsilon, "steps": steps}}


def measure_loops(loops: dict[int, tuple[Loop, int]], rounds: int) -> dict[int, dict[str, Any]]:
    """Seconds of a step and images per second of every (loop, batch size), by what varies."""
    timers = {}
    for key, (loop, batch_size) in loops.items():
        timers[key] = loop.timer(*minibatch("cifar10", batch_size, loop.backend.device))
        timers[key]()
    seconds = in_turn(timers, rounds)
    return {
        key: {"seconds": spread(seconds[key]), "images_per_second": rates(batch_size, seconds[key])}
        for key, (_, batch_size) in loops.items()
    }


def sweeps(architecture: str, given: Any, backend: Backend) -> dict[str, dict[int, dict[str, Any]]]:
    """What varies in this process."""

    def loop(*objectives: dict[str, Any]) -> Loop:
        named = {f"learner_{number}": objective for number, objective in enumerate(objectives)}
        return generalist(architecture, "cifar10", named, backend)

    at = loop(adversarial())
    by_steps = {0: loop(NATURAL)} | {steps: loop(adversarial(steps=steps)) for steps in given.attack_steps}
    budgets = {
        count: [adversarial(EPSILON * (number + 1) / count) for number in range(count)] for count in given.learners
    }
    return {
        "batch_size": measure_loops({size: (at, size) for size in given.batch_sizes}, given.rounds),
        "attack_steps": measure_loops(
            {steps: (each, given.batch_size) for steps, each in by_steps.items()}, given.rounds
        ),
        "learners": measure_loops(
            {count: (loop(*objectives), given.batch_size) for count, objectives in budgets.items()}, given.rounds
        ),
    }


def processes(counts: list[int], architecture: str, batch_size: int, rounds: int) -> dict[str, dict[Any, Any]]:
    """The same for jobs of so many processes, and for one of a process for each learner."""
    jobs = {(DATA_PARALLEL, count): partial(job, count, DATA_PARALLEL, architecture, batch_size) for count in counts}
    if LEARNERS in counts:
        jobs[LEARNER_PARALLEL, LEARNERS] = partial(job, LEARNERS, LEARNER_PARALLEL, architecture, batch_size)
    found = in_turn(jobs, rounds)
    measured = {
        key: {"seconds": spread(seconds), "images_per_second": rates(batch_size, seconds)}
        for key, seconds in found.items()
    }
    by_kind = {"processes": DATA_PARALLEL, "learner_parallel": LEARNER_PARALLEL}
    return {
        name: {count: one for (kind, count), one in measured.items() if kind == wanted}
        for name, wanted in by_kind.items()
    }


def job(count: int, kind: str, architecture: str, batch_size: int) -> float:
    """The median seconds of a step of a job."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "benchmarks.ranks"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        arguments = [architecture, str(batch_size), kind, folder]
        result = subprocess.run(
            [sys.executable, "-m", *command, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise SystemExit(f"{count} processes failed with exit code {result.returncode}:\n{result.stderr}")
        seconds: float = json.loads((Path(folder) / "seconds.json").read_text())
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "scaling", OPTIONS, arguments)
    backend = choose_backend("auto", "auto")
    most = torch.cuda.device_count() if backend.device.type == "cuda" else max(given.processes)
    counts = [count for count in given.processes if count <= most]
    result = {
        **sweeps(given.architecture, given, backend),
        **processes(counts, given.architecture, given.shared_batch_size, given.rounds),
        "settings": {key: getattr(given, key) for key in ("architecture", "batch_size", "shared_batch_size", "rounds")},
        "bfloat16": backend.bfloat16,
    }
    publish(given.output, result, backend.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
