"""Time and memory of all figures of the suite cifar10, from a store with 500 runs of 120 epochs.

The numbers in the runs are made up: only how many they are matters here. Planting them takes longer than reading them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.config import DERIVED_METRICS, Experiment, cells, parse_params
from pipeline.files import write_json
from pipeline.provenance import git_commit, versions
from stages.compose import compose
from tests.reporting.planting import plant

RUNS = 500
OVERRIDES = ["suite=cifar10", "seeds=[1,2,3,4,5,6]"]
CLASSES = 10
OF_LEARNERS = ("loss", "train_accuracy", "learning_rate", "mixing_ratio")
MEASURED = ("natural", "pgd_linf", "pgd_l2")


def plant_made_up(folder: Path, experiment: Experiment, numbers: np.random.Generator) -> None:
    """One run with as many numbers as a real one: 120 epochs, all attacks, all classes."""
    learners = list(experiment.method.learners)
    curves = [f"{what}/{name}" for what in OF_LEARNERS for name in learners]
    curves += [f"held_out/{name}/{metric}" for name in (*learners, "global") for metric in MEASURED]
    history = [
        {"epoch": epoch, "redistributed": float(epoch % 5 == 0), **{name: numbers.random() for name in curves}}
        for epoch in range(1, experiment.training.epochs + 1)
    ]
    attacks = ["natural", *experiment.evaluation.attacks]
    metrics = {name: numbers.random() for name in {*DERIVED_METRICS, *attacks}}
    plant(folder, experiment, metrics, history, {attack: numbers.random(CLASSES).tolist() for attack in attacks})


def timed(*command: str) -> float:
    """Seconds of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    """The command."""
    import yaml

    text = compose(OVERRIDES, Path("conf"))
    params = parse_params(yaml.safe_load(text))
    grid = {cell.experiment.fingerprint: cell.experiment for cell in cells(params)}
    experiments = {experiment.fingerprint: experiment for experiment in params.experiments()} | grid
    numbers = np.random.default_rng(0)
    with TemporaryDirectory() as root:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/runs.db"
        chosen = list(islice(experiments.values(), RUNS))
        for number, experiment in enumerate(chosen):
            plant_made_up(Path(root) / str(number), experiment, numbers)
            print(f"\rplanted {number + 1} of {len(chosen)} runs", end="", flush=True)
        print()
        (Path(root) / "params.yaml").write_text(text)
        arguments = ["--params", f"{root}/params.yaml", "--output", f"{root}/out"]
        result = {
            "runs": len(chosen),
            "epochs": params.training.epochs,
            "seconds": timed("-m", "stages.figures", *arguments),
            "figures": len(params.figures),
            "peak_mebibytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
            "git_commit": git_commit(),
            **versions(),
        }
    write_json(Path("benchmarks/results/figures.json"), result)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
