"""Experiments one after the other in one process leave their results and little else, in memory and on the disk."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from scipy.stats import theilslopes

from pipeline.config import parse_params
from pipeline.config.composing import compose
from pipeline.experiments.complete import complete_experiment
from tests.conftest import REPOSITORY

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
    "seeds=[0,1,2,3,4,5]",
]


def used(folder: Path) -> Counter[str]:
    """Bytes on the disk, by the first part of the path."""
    found: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).parts[0]] += path.stat().st_size
    return found


@pytest.mark.timeout(600)
def test_experiments_leave_their_results_and_little_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw: dict[str, Any] = yaml.safe_load(compose(OVERRIDES, REPOSITORY / "conf"))
    attacks = raw["evaluation"]["attacks"]
    raw["methods"], raw["tables"], raw["figures"] = {METHOD: raw["methods"][METHOD]}, {}, {}
    raw["evaluation"]["attacks"] = {name: attacks[name] for name in ("pgd20_linf", "noise_linf")}
    raw["evaluation"]["union"] = ["pgd20_linf", "noise_linf"]
    del raw["ablation"]["studies"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    kilobytes, disk = [], []
    for experiment in parse_params(raw).experiments():
        complete_experiment(experiment, lambda: None)
        gc.collect()
        kilobytes.append(psutil.Process().memory_info().rss / 1000)
        disk.append(used(tmp_path))
    assert theilslopes(kilobytes).slope < 5000, kilobytes
    growth = disk[-1] - disk[0]
    assert {name for name in growth if not name.startswith("ml")} == {"results", "runs"}
