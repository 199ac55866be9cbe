"""What orchestration costs, and what a second worker brings: a grid of 16 short experiments on a real server.

The same grid is run by one worker and by two, each with one thread, in rounds that alternate, each in a folder of its
own. Beside it the experiments without Prefect: in one process, the difference to which is what orchestration adds, and
half of them in each of two, which is as fast as this machine's cores can be side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.publishing import RESULTS, publish
from pipeline.config.composing import compose
from pipeline.grid.local import local_engine

REPOSITORY = Path(__file__).resolve().parent.parent
METHOD = "generalist_d_nt_linf"
SEEDS = [1, 2, 3, 4]
ALONE = """
import json, sys
from pipeline.config import Experiment
from pipeline.experiments.complete import complete_experiment
first, step = map(int, sys.argv[1:])
for content in json.load(open("experiments.json"))[first::step]:
    complete_experiment(Experiment.model_validate(content), lambda: None)
"""


def content() -> dict[str, Any]:
    """16 experiments of seconds: four intervals with four seeds on 512 digits, attacked by PGD alone."""
    raw: dict[str, Any] = yaml.safe_load(compose(["suite=digits", "competitors=none"], REPOSITORY / "conf"))
    raw["methods"] = {METHOD: raw["methods"][METHOD]}
    raw["tables"] = {}
    raw["seeds"] = SEEDS
    raw["data"]["train_images"] = 512
    attacks = raw["evaluation"]["attacks"]
    raw["evaluation"]["attacks"] = {name: attacks[name] for name in ("pgd20_linf", "pgd20_l2")}
    raw["evaluation"]["union"] = ["pgd20_linf", "pgd20_l2"]
    study = {"label": "c", "methods": [METHOD], "varies": "communication_interval", "values": [1, 2, 3, 4]}
    raw["ablation"]["studies"] = {"communication_interval": study}
    return raw


@contextlib.contextmanager
def place() -> Iterator[None]:
    """A folder with the grid and prepared data, as the current one."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in ("prefect.yaml", "automations.yaml"):
            shutil.copy(REPOSITORY / name, folder)
        Path("params.yaml").write_text(yaml.safe_dump(content(), sort_keys=False))
        subprocess.run([sys.executable, "-m", "stages.plan"], check=True, stdout=subprocess.DEVNULL)
        yield


def with_workers(count: int) -> float:
    """Seconds of the whole grid with so many workers that wait for it; the server's start is not counted."""
    with place(), local_engine(Path(".prefect"), count, threads=1) as engine:
        started = time.perf_counter()
        command = [sys.executable, "-m", "stages.ablation", "--workers", str(count)]
        subprocess.run(command, check=True, env=os.environ | engine.environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def alone(processes: int) -> float:
    """Seconds of the same experiments shared out among so many processes, without Prefect."""
    from pipeline.config import load_params
    from pipeline.studies.cells import cells

    with place():
        experiments = [cell.experiment.model_dump(mode="json") for cell in cells(load_params(Path("params.yaml")))]
        Path("experiments.json").write_text(json.dumps(experiments))
        started = time.perf_counter()
        commands = [[sys.executable, "-c", ALONE, str(first), str(processes)] for first in range(processes)]
        running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
        if any([process.wait() for process in running]):
            raise SystemExit("error: an experiment failed; its message is above")
        return time.perf_counter() - started


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    measures: dict[str, tuple[Callable[[int], float], int]] = {
        "alone": (alone, 1),
        "two_alone": (alone, 2),
        "one_worker": (with_workers, 1),
        "two_workers": (with_workers, 2),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(given.rounds):
        for name, (measure, count) in measures.items():
            seconds[name].append(measure(count))
            print(f"{name}: {seconds[name][-1]:.0f} s", flush=True)
    bare, two_bare, one, two = (statistics.median(measured) for measured in seconds.values())
    experiments = len(SEEDS) * 4
    result = {
        "experiments": experiments,
        "seconds": seconds,
        "two_workers_to_one": two / one,
        "two_processes_to_one": two_bare / bare,
        "orchestration_seconds_per_experiment": (one - bare) / experiments,
    }
    publish(RESULTS / "grid.json", result)


if __name__ == "__main__":
    main()
