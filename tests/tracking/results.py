"""A small suite, the files that its stages leave, and a look into the store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import OOD_METRICS, Experiment, parse_params
from pipeline.provenance.code import code_of, digest_of
from pipeline.tracking import DataDescription, sqlite_uri, store, track, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

from tests.conftest import PATIENCE

DATA = DataDescription("digits", "0123456789abcdef" * 4, {"train": 1137, "test": 360})
METRICS = {"natural": 0.9, "pgd_linf": 0.4, "pgd_l2": 0.5, "union": 0.45}
COUNTS = {"natural": 360, "pgd_linf": 64, "pgd_l2": 64, "union": 64}


def experiments(epsilon: float = 0.1, label: str = "NT") -> list[Experiment]:
    """The experiments of a small suite: one method, eight seeds; `epsilon` changes the evaluation alone."""
    learner = {
        "objective": {"name": "natural"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "schedule": {"epochs": [step / 400 for step in range(1200)], "values": [1.0] * 1200},
    }
    attack = {"name": "pgd", "epsilon": epsilon, "step_size": 0.1, "steps": 1}
    raw = {
        "suite": "small",
        "reports_folder": "reports/small",
        "description": "A suite for tests.",
        "protocol": "paper",
        "seeds": list(range(8)),
        "data": {"name": "digits", "held_out_images": 300},
        "model": {"architecture": "small_cnn"},
        "threat_model": {},
        "training": {"epochs": 3, "batch_size": 8, "selection": {"split": "held_out"}},
        "methods": {"nt": {"label": label, "learners": {"natural": learner}}},
        "evaluation": {
            "batch_size": 8,
            "attacks": {"pgd_linf": {**attack, "norm": "linf"}, "pgd_l2": {**attack, "norm": "l2"}},
            "union": ["pgd_linf", "pgd_l2"],
        },
        "tables": {},
    }
    return list(parse_params(raw).experiments())


EXPERIMENT = experiments()[0]


def all_runs(database: Path | None = None) -> list[Run]:
    """Every run of a database, or of the store that this process uses."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri() if database is None else sqlite_uri(database))
    return list(client.search_runs([item.experiment_id for item in client.search_experiments()]))


def epochs_of(database: Path, run: Run) -> list[int]:
    """The epochs that a run was told of."""
    from mlflow import MlflowClient

    history = MlflowClient(sqlite_uri(database)).get_metric_history(run.info.run_id, "epoch")
    return sorted(metric.step for metric in history)


def only_run() -> Run:
    (run,) = all_runs()
    return run


def curve(key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri()).get_metric_history(only_run().info.run_id, key)
    return sorted((metric.step, metric.value) for metric in history)


def artifacts(run: Run) -> set[str]:
    from mlflow import MlflowClient

    return {item.path for item in MlflowClient(tracking_uri()).list_artifacts(run.info.run_id)}


def record(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "loss/linf": 2.0 / epoch, "held_out/global/natural": 0.25 * epoch, "seconds": 1.5}


def write_results(folder: Path, experiment: Experiment = EXPERIMENT, weights: str = "one") -> Path:
    """The files that the stages leave."""
    train, evaluate = folder / "train", folder / "evaluate"
    train.mkdir(parents=True, exist_ok=True)
    evaluate.mkdir(exist_ok=True)
    summary = {
        "fingerprint": experiment.fingerprint,
        "data_digest": DATA.digest,
        "weights_sha256": weights,
        "epochs": 3,
        "selected_epoch": 2,
        "seconds": 4.5,
        "device": "cpu",
        "versions": {"torch": "2.15.0"},
        "git_commit": "c0ffee-dirty",
        "training_code": digest_of("train", experiment),
    }
    evaluation = {
        "evaluation_fingerprint": experiment.evaluation_fingerprint,
        "evaluation_code": digest_of("evaluate", experiment),
        "metrics": METRICS,
        "counts": COUNTS,
        "intervals": {name: [value / 2, 1.0] for name, value in METRICS.items()},
    }
    (train / "summary.json").write_text(json.dumps(summary))
    (train / "code.json").write_text(json.dumps(code_of("train", experiment).as_json()))
    (evaluate / "evaluation_code.json").write_text(json.dumps(code_of("evaluate", experiment).as_json()))
    (train / "history.json").write_text(json.dumps([record(epoch) for epoch in (1, 2, 3)]))
    (train / "model.safetensors").write_bytes(b"weights")
    (evaluate / "metrics.json").write_text(json.dumps(evaluation))
    (evaluate / "verdicts.parquet").write_bytes(b"verdicts")
    (evaluate / "classes.csv").write_text("attack,label,images,accuracy,low,high\n")
    (evaluate / "trust.json").write_text('{"suspicious": true, "signs": []}')
    return folder


def write_ood(folder: Path, weights: str = "one") -> Path:
    """The files that `measure_ood` leaves."""
    folder.mkdir()
    content = {
        "ood_fingerprint": EXPERIMENT.ood_fingerprint,
        "ood_code": digest_of("ood", EXPERIMENT),
        "weights_sha256": weights,
        "provenance": {"corruptions": "regenerated"},
        "metrics": dict.fromkeys(OOD_METRICS, 0.25),
        "images": 6,
    }
    (folder / "metrics.json").write_text(json.dumps(content))
    for name in ("corruptions.csv", "perturbations.csv"):
        (folder / name).write_text("name\n")
    return folder


def as_another_process() -> None:
    """Forget what this one knows of stores: MLflow remembers by run where artifacts are."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()
    store._sound.clear()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what a thread or another process brings about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def train_and_evaluate(folder: Path, experiment: Experiment = EXPERIMENT) -> None:
    with track(experiment, DATA) as run:
        for epoch in (1, 2, 3):
            run.log_epoch(record(epoch))
        run.log_training(folder / "train")
    with track(experiment, DATA) as run:
        run.log_evaluation(folder / "evaluate")
