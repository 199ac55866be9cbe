"""Many tiny experiments back to back in one process: what memory and disk they leave behind.

    python -m benchmarks.soak --experiments 100 --grid 16

Each experiment is prepared, trained, evaluated and tracked in a real sqlite store, as a worker does it. Memory is what
the kernel says of this process after each; its slope is Theil and Sen's, the median over all pairs, with a 95 %
interval, over the second half: the first fills caches. `--grid` runs as many experiments through Prefect besides.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.publishing import publish
from pipeline.config import Params, parse_params
from pipeline.files import write_text
from pipeline.reporting.blocks import replace_block
from stages import cli
from stages.compose import compose

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks/results/soak.json"
DOCUMENT = REPOSITORY / "docs/security.md"
METHOD = "generalist_d_nt_linf"
OVERRIDES = [
    "suite=digits",
    "competitors=none",
    "training.epochs=4",
    "training.batch_size=32",
    "training.threads=1",
    "training.device=cpu",
    "data.train_images=64",
    "data.held_out_images=32",
    "data.test_images=32",
    "threat_model.linf.steps=2",
    f"methods.{METHOD}.mixture.breakpoints=[0,1,2,4]",
    f"methods.{METHOD}.mixture.warmup_epochs=2",
]
PLACES = {"results": "results", "runs": "runs", "mlflow": "mlflow", "mlartifacts": "mlflow", "data": "data"}
"""What disk space is counted as, by the beginning of a path; everything else is 'other'."""
SAMPLE_SECONDS = 2.0


def content(seeds: int) -> dict[str, Any]:
    """A params.yaml with one method of two learners and so many seeds, which takes seconds for each."""
    raw: dict[str, Any] = yaml.safe_load(
        compose([*OVERRIDES, f"seeds=[{','.join(map(str, range(seeds)))}]"], REPOSITORY / "conf")
    )
    attacks = raw["evaluation"]["attacks"]
    raw["methods"] = {METHOD: raw["methods"][METHOD]}
    raw["tables"], raw["figures"] = {}, {}
    raw["evaluation"]["attacks"] = {name: attacks[name] for name in ("pgd20_linf", "noise_linf")}
    raw["evaluation"]["union"] = ["pgd20_linf", "noise_linf"]
    study = {"label": "c", "methods": [METHOD], "varies": "communication_interval", "values": [1, 2]}
    raw["ablation"]["studies"] = {"communication_interval": study}
    return raw


@contextlib.contextmanager
def folder_with(raw: dict[str, Any]) -> Iterator[Path]:
    """A new folder with this params.yaml, as the current one, and a store of its own."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name, contextlib.chdir(name):
        write_text(Path("params.yaml"), yaml.safe_dump(raw, sort_keys=False))
        for file in ("prefect.yaml", "automations.yaml"):
            shutil.copy(REPOSITORY / file, name)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{name}/mlflow.db"
        try:
            yield Path(name)
        finally:
            del os.environ["MLFLOW_TRACKING_URI"]


def used(folder: Path) -> dict[str, int]:
    """Bytes on the disk, by what they belong to."""
    found = dict.fromkeys([*PLACES.values(), "other"], 0)
    for path in folder.rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts[0]
            found[next((place for start, place in PLACES.items() if top.startswith(start)), "other")] += (
                path.stat().st_size
            )
    return found


def resident_kilobytes() -> float:
    """Of this process, in memory."""
    return float(psutil.Process().memory_info().rss / 1000)


def slope(values: list[float]) -> dict[str, float]:
    """How much a series grows from one value to the next: the median over all pairs, and its 95 % interval."""
    from scipy.stats import theilslopes

    found = theilslopes(values)
    return {"slope": float(found.slope), "low": float(found.low_slope), "high": float(found.high_slope)}


def one_process(experiments: int) -> dict[str, Any]:
    """Complete so many experiments here."""
    from pipeline.runs import complete_experiment

    raw = content(experiments)
    params: Params = parse_params(raw)
    memory: list[float] = []
    disk: list[dict[str, int]] = []
    started = time.perf_counter()
    with folder_with(raw) as folder:
        for number, experiment in enumerate(params.experiments(), start=1):
            with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
                complete_experiment(experiment, lambda: None)
            gc.collect()
            memory.append(round(resident_kilobytes()))
            disk.append(used(folder))
            megabytes = sum(disk[-1].values()) / 1e6
            print(f"{number}/{experiments}: {memory[-1] / 1000:.0f} MB, {megabytes:.1f} MB on the disk", flush=True)
        others = [
            str(path) for path in folder.rglob("*") if path.is_file() and path.parts[len(folder.parts)] not in PLACES
        ]
    half = len(memory) // 2
    return {
        "experiments": experiments,
        "resident_kilobytes": memory,
        "kilobytes_per_experiment": slope(memory[half:]),
        "disk_bytes_per_experiment": {
            place: (disk[-1][place] - disk[0][place]) / max(1, experiments - 1) for place in disk[0]
        },
        "other_files": sorted({Path(path).name for path in others}),
        "seconds": round(time.perf_counter() - started),
    }


def through_the_grid(experiments: int) -> dict[str, Any]:
    """Run a grid of so many experiments on a server and a worker of this machine, and watch their memory."""
    from pipeline.grid.local import local_engine

    started = time.perf_counter()
    with (
        folder_with(content(max(1, experiments // 2))) as folder,
        local_engine(folder / ".prefect", 1, threads=1) as engine,
    ):
        command = [sys.executable, "-m", "stages.ablation", "--workers", "1", "--yes"]
        environment = os.environ | engine.environment | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        grid = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        watched: dict[str, list[float]] = {"server": [], "worker-1": []}
        while grid.poll() is None:
            for name, values in watched.items():
                values.append(psutil.Process(engine.processes[name].pid).memory_info().rss / 1000)
            time.sleep(SAMPLE_SECONDS)
        if grid.returncode:
            raise SystemExit(f"the grid ended with exit code {grid.returncode}")
        disk = used(folder)
        done = len(list(folder.glob("results/ablation/*/*/evaluate/metrics.json")))
    return {
        "experiments": done,
        "seconds": round(time.perf_counter() - started),
        "seconds_per_sample": SAMPLE_SECONDS,
        "resident_kilobytes": {name: [round(value) for value in values] for name, values in watched.items()},
        "kilobytes_per_minute": {
            name: {key: value * 60 / SAMPLE_SECONDS for key, value in slope(values[len(values) // 2 :]).items()}
            for name, values in watched.items()
        },
        "disk_bytes": disk,
    }


def table(result: dict[str, Any]) -> str:
    """In Markdown."""
    alone, grid = result["one_process"], result.get("grid")
    growth, disk = alone["kilobytes_per_experiment"], alone["disk_bytes_per_experiment"]
    memory = alone["resident_kilobytes"]
    rows = [
        ["experiments in one process", f"{alone['experiments']}"],
        [
            "memory after the first, half, all",
            ", ".join(f"{memory[n] / 1000:.0f} MB" for n in (0, len(memory) // 2, -1)),
        ],
        [
            "growth per experiment, second half (95 % interval)",
            f"{growth['slope']:.0f} kB ({growth['low']:.0f} to {growth['high']:.0f})",
        ],
        [
            "disk per experiment: results, runs, MLflow",
            ", ".join(f"{disk[name] / 1000:.0f} kB" for name in ("results", "runs", "mlflow")),
        ],
        ["disk per experiment: anything else", f"{disk['other'] / 1000:.1f} kB"],
    ]
    if grid:
        rate = grid["kilobytes_per_minute"]
        shown = ", ".join(
            f"{name} {rate[name]['slope']:.0f} ({rate[name]['low']:.0f} to {rate[name]['high']:.0f})" for name in rate
        )
        rows += [
            ["experiments through the grid", f"{grid['experiments']} in {grid['seconds']} s, start included"],
            ["growth of Prefect's processes, second half, kB per minute", shown],
            ["disk: Prefect's database and logs", f"{grid['disk_bytes']['other'] / 1e6:.1f} MB"],
        ]
    lines = [["", ""], [":--", "--:"], *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\nn = 1; commit {result['git_commit'][:10]}, Python {result['python']}, torch {result['torch']}."


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=cli.positive, default=100, help="default: %(default)s")
    parser.add_argument("--grid", type=cli.positive, help="as many through Prefect besides (default: none)")
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    result = {"one_process": one_process(given.experiments)}
    if given.grid:
        result["grid"] = through_the_grid(given.grid)
    replace_block(DOCUMENT, "soak", table(publish(RESULTS, result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
