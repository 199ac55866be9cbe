"""What orchestration costs: a small grid on a real server, and the same experiments without one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.frame import benchmark, in_turn
from benchmarks.loops import REPOSITORY
from pipeline.config import load_params
from pipeline.config.composing import compose
from pipeline.grid.local import local_engine
from pipeline.studies.cells import cells

METHOD = "generalist_d_nt_linf"
INTERVALS = [1, 2, 3, 4]
ALONE = """
import json, sys
from pipeline.config import Experiment
from pipeline.experiments.complete import complete_experiment
first, step = map(int, sys.argv[1:])
for content in json.load(open("experiments.json"))[first::step]:
    complete_experiment(Experiment.model_validate(content), lambda: None)
"""


@benchmark(on_device=False, seeds=1)
def grid(seeds: int = 4, rounds: int = 1) -> dict[str, Any]:
    """What orchestration costs, and what a second worker brings: a grid of short experiments on a real server.

    The same grid is run by one worker and by two, each with one thread, in turn, each in a folder of its own. Beside it
    the experiments without Prefect: in one process, the difference to which is what orchestration adds, and half of
    them in each of two, which is as fast as this machine's cores can be side by side.
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    measures = {
        "alone": partial(_alone, seeds, 1),
        "two_alone": partial(_alone, seeds, 2),
        "one_worker": partial(_with_workers, seeds, 1),
        "two_workers": partial(_with_workers, seeds, 2),
    }
    seconds = in_turn(measures, rounds)
    bare, two_bare, one, two = (statistics.median(measured) for measured in seconds.values())
    experiments = seeds * len(INTERVALS)
    return {
        "experiments": experiments,
        "seconds": seconds,
        "two_workers_to_one": two / one,
        "two_processes_to_one": two_bare / bare,
        "orchestration_seconds_per_experiment": (one - bare) / experiments,
    }


def _with_workers(seeds: int, count: int) -> float:
    """Seconds of the whole grid with so many workers that wait for it; the server's start is not counted."""
    with _place(seeds), local_engine(Path(".prefect"), count, threads=1) as engine:
        started = time.perf_counter()
        command = [sys.executable, "-m", "stages.ablation", "--workers", str(count)]
        subprocess.run(command, check=True, env=os.environ | engine.environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def _alone(seeds: int, processes: int) -> float:
    """Seconds of the same experiments shared out among so many processes, without Prefect."""
    with _place(seeds):
        experiments = [cell.experiment.model_dump(mode="json") for cell in cells(load_params(Path("params.yaml")))]
        Path("experiments.json").write_text(json.dumps(experiments))
        started = time.perf_counter()
        commands = [[sys.executable, "-c", ALONE, str(first), str(processes)] for first in range(processes)]
        running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
        if any([process.wait() for process in running]):
            raise SystemExit("error: an experiment failed; its message is above")
        return time.perf_counter() - started


@contextlib.contextmanager
def _place(seeds: int) -> Iterator[None]:
    """A folder with the grid and prepared data, as the current one: 512 digits, attacked by PGD alone."""
    raw: dict[str, Any] = yaml.safe_load(compose(["suite=digits", "competitors=none"], REPOSITORY / "conf"))
    attacks = ["pgd20_linf", "pgd20_l2"]
    raw |= {
        "methods": {METHOD: raw["methods"][METHOD]},
        "tables": {},
        "figures": {},
        "seeds": list(range(1, seeds + 1)),
    }
    raw["data"]["train_images"] = 512
    raw["evaluation"] |= {"attacks": {name: raw["evaluation"]["attacks"][name] for name in attacks}, "union": attacks}
    study = {"label": "c", "methods": [METHOD], "varies": "communication_interval", "values": INTERVALS}
    raw["ablation"]["studies"] = {"communication_interval": study}
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in ("prefect.yaml", "automations.yaml"):
            shutil.copy(REPOSITORY / name, folder)
        Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
        subprocess.run([sys.executable, "-m", "stages.plan"], check=True, stdout=subprocess.DEVNULL)
        yield
