"""What is said of earlier work when a stage begins."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiments.evaluate import evaluate_experiment
from pipeline.experiments.train import train_experiment
from pipeline.provenance.folders import training_folder
from pipeline.provenance.keeping import is_of
from tests.conftest import MakeParams


def quick(content: dict[str, Any], architecture: str) -> None:
    content["model"]["architecture"] = architecture
    for attack in content["evaluation"]["attacks"].values():
        attack["images"] = 1
        if attack["name"] == "autoattack":
            attack["members"] = ["apgd_ce"]


def test_another_network_is_not_taken_for_changed_code(
    make_params: MakeParams,
    prepared_digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both networks' results lie in the same folder, and their code differs."""
    shutil.copytree(prepared_digits, tmp_path / "data/prepared/digits")
    monkeypatch.chdir(tmp_path)
    for architecture in ("small_cnn", "resnet18_width16"):
        params = make_params(lambda raw, name=architecture: quick(raw, name))
        experiment = params.experiment("nt", 1)
        record = training_folder(experiment) / "summary.json"
        assert not is_of(record, fingerprint=experiment.fingerprint)
        train_experiment(experiment, lambda: None)
        evaluate_experiment(experiment)
        assert is_of(record, fingerprint=experiment.fingerprint)
    assert "anew" not in capsys.readouterr().out
    record.write_text("{")
    assert not is_of(record, fingerprint=experiment.fingerprint)
