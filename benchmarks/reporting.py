"""Time and memory of all tables and of all figures from an MLflow store with some 500 runs of 120 epochs.

One run is logged as an experiment logs it; the others are copies of its rows with fingerprints and numbers of their
own, since logging 500 runs call by call takes an hour.
"""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.publishing import publish
from benchmarks.timing import Option, read_arguments
from pipeline.config import OOD_METRICS, Experiment, Params, parse_params
from pipeline.files import write_json, write_text
from pipeline.provenance.code import code_of, digest_of
from pipeline.provenance.commit import git_commit
from pipeline.tracking import DataDescription, track
from stages.compose import compose

OPTIONS = {
    "seeds": Option(21, 1, "of each of 24 methods"),
    "epochs": Option(120, 2, "of every run"),
    "stages": Option(["report", "figures"], ["report"], "what is timed"),
    "rounds": Option(3, 1, "timings of each"),
}
KINDS = {"report": "tables", "figures": "figures"}
DIGEST = "0" * 64
COPIED = ("tags", "params", "metrics", "latest_metrics")
ROOT = Path(__file__).resolve().parent.parent


def suite(count: int) -> str:
    """The content of a params.yaml: 24 methods with so many seeds, every table and every figure of numbers."""
    seeds = ",".join(map(str, range(1, count + 1)))
    text = compose(["suite=digits", "attacks=full", f"seeds=[{seeds}]"], ROOT / "conf")
    content = yaml.safe_load(text)  # Grad-CAM needs weights, which these runs do not have
    content["figures"] = {name: entry for name, entry in content["figures"].items() if entry["kind"] != "grad_cam"}
    return str(yaml.safe_dump(content, sort_keys=False))


def build_store(folder: Path, params: Params, epochs: int) -> int:
    """Write `mlflow.db` with a run for every experiment of `params` into `folder`; returns their number."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    template, *others = params.experiments()
    _log(template, folder / "files", epochs)
    with sqlite3.connect(folder / "mlflow.db") as connection:
        for number, experiment in enumerate(others):
            _copy(connection, experiment, np.random.default_rng(number))
    return 1 + len(others)


def _log(experiment: Experiment, folder: Path, epochs: int) -> None:
    """One run as the stages log it, with made-up numbers."""
    learners = experiment.method.learners
    curves = [f"{kind}/{name}" for name in learners for kind in ("loss", "learning_rate", "train_accuracy")]
    curves += [f"held_out/{name}/{metric}" for name in [*learners, "global"] for metric in ("natural", "pgd_linf")]
    history = [{"epoch": epoch, **{key: epoch / epochs for key in curves}} for epoch in range(1, epochs + 1)]
    names = ["natural", *experiment.evaluation.attacks, "union", "worst_case_union"]
    trained = {"weights_sha256": DIGEST, "git_commit": git_commit(), "seconds": 60.0}
    trained["training_code"] = digest_of("train", experiment)
    write_json(folder / "train/summary.json", trained)
    write_json(folder / "train/code.json", code_of("train", experiment).as_json())
    write_json(folder / "evaluate/evaluation_code.json", code_of("evaluate", experiment).as_json())
    write_json(folder / "train/history.json", history)
    evaluation = {
        "evaluation_fingerprint": experiment.evaluation_fingerprint,
        "evaluation_code": digest_of("evaluate", experiment),
        "metrics": dict.fromkeys(names, 0.5),
        "counts": dict.fromkeys(names, 360),
        "intervals": {key: [0.4, 0.6] for key in names},
    }
    write_json(folder / "evaluate/metrics.json", evaluation)
    write_json(folder / "evaluate/trust.json", {"suspicious": False})
    ood = {
        "ood_fingerprint": experiment.ood_fingerprint,
        "ood_code": digest_of("ood", experiment),
        "provenance": {"corruptions": "regenerated"},
        "metrics": dict.fromkeys(OOD_METRICS, 0.5),
        "images": 360,
    }
    write_json(folder / "ood/metrics.json", ood)
    rows = [f"{attack},{label},36,0.5,0.4,0.6" for attack in names for label in range(10)]
    write_text(folder / "evaluate/classes.csv", "\n".join(["attack,label,images,accuracy,low,high", *rows, ""]))
    for name in ("train/model.safetensors", "evaluate/verdicts.parquet"):
        write_text(folder / name, name)
    for name in ("corruptions.csv", "perturbations.csv"):
        write_text(folder / "ood" / name, name)
    # What waits for the store is below the current folder.
    with chdir(folder), track(experiment, DataDescription("digits", DIGEST, {"test": 360})) as run:
        run.log_training(folder / "train")
        run.log_evaluation(folder / "evaluate")
        run.log_ood(folder / "ood")


def _copy(connection: sqlite3.Connection, experiment: Experiment, generator: np.random.Generator) -> None:
    """Another run with the template's rows, under the experiment's name and with other test accuracies."""
    own = {
        "fingerprint": experiment.fingerprint,
        "evaluation_fingerprint": experiment.evaluation_fingerprint,
        "ood_fingerprint": experiment.ood_fingerprint,
        "training_code": digest_of("train", experiment),
        "evaluation_code": digest_of("evaluate", experiment),
        "ood_code": digest_of("ood", experiment),
        "method": experiment.name,
        "seed": str(experiment.seed),
    }
    run_id = uuid.UUID(bytes=generator.bytes(16)).hex
    for table in ("runs", *COPIED):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        first = "(SELECT run_uuid FROM runs ORDER BY rowid LIMIT 1)"
        for row in connection.execute(f"SELECT * FROM {table} WHERE run_uuid = {first}").fetchall():
            cells: dict[str, Any] = dict(zip(columns, row, strict=True)) | {"run_uuid": run_id}
            if table == "tags":
                cells["value"] = own.get(cells["key"], cells["value"])
            if table == "latest_metrics" and cells["key"].startswith(("test/", "ood/ood_")):
                cells["value"] = float(generator.uniform())
            connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(columns))})", list(cells.values()))


def measure(folder: Path, stage: str, rounds: int) -> dict[str, Any]:
    """A stage in a process of its own, LaTeX included, a few times: wall-clock and CPU seconds, and the most memory."""
    seconds, cpu_seconds, peaks = zip(*(_once(folder, stage) for _ in range(rounds)), strict=True)
    return {
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "cpu_seconds": cpu_seconds,
        "peak_mebibytes": max(peaks),
    }


def _once(folder: Path, stage: str) -> tuple[float, float, float]:
    started, before = time.perf_counter(), _cpu_seconds()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", stage], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        # Not getrusage: a child's maximum counts what this process had when it forked.
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))])
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{stage} failed with exit code {process.returncode}")
    return time.perf_counter() - started, _cpu_seconds() - before, peak


def _cpu_seconds() -> float:
    """Of all children so far, on all cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "reporting", OPTIONS, arguments)
    with tempfile.TemporaryDirectory() as name:
        folder, content = Path(name), suite(given.seeds)
        write_text(folder / "params.yaml", content)
        params = parse_params(yaml.safe_load(content))
        runs = build_store(folder, params, given.epochs)
        measured = {KINDS[stage]: measure(folder, f"stages.{stage}", given.rounds) for stage in given.stages}
        for kind, ending in (("tables", "tex"), ("figures", "pdf")):
            if kind in measured:
                found = (folder / params.reports / kind).glob(f"*.{ending}")
                measured[kind]["files"] = sorted(path.name for path in found)
        megabytes = (folder / "mlflow.db").stat().st_size / 1e6
    result = {
        "runs": runs,
        "epochs": given.epochs,
        "store_megabytes": megabytes,
        "pdf": shutil.which("pdflatex") is not None,
        **measured,
    }
    publish(given.output, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
