"""Shared warm-ups in the folders of experiments: killed, in another process's hands, and over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Experiment, Params, load_params
from pipeline.core.errors import Interrupted
from pipeline.core.files import Busy, read_record
from pipeline.experiments.train import locked, train_experiment
from pipeline.experiments.warm_up import epochs_of_warm_ups, open_warm_ups, share_warm_up
from pipeline.provenance.folders import state_folder, training_folder, warm_up_folder
from pipeline.studies.warm_ups import shared_warm_ups
from tests.conftest import PATIENCE, REPOSITORY

METHODS = ("at", "nt", "generalist_d_nt_linf")
KILLED = """
import os, sys
from pathlib import Path
from pipeline.config import load_params
from pipeline.experiments.warm_up import open_warm_ups, share_warm_up

(warm_up,) = open_warm_ups(load_params(Path("params.yaml")).experiments())
written = "warm_ups/*/*/00002-*.json"
share_warm_up(warm_up, lambda: os.kill(os.getpid(), 9) if list(Path("runs").glob(written)) else None)
"""


def three(content: dict[str, Any]) -> None:
    """Generalist-D and its own baselines, six epochs, of which the steps of four are shared."""
    content["methods"] = {name: content["methods"][name] for name in METHODS}
    content["training"]["epochs"] = 6
    content["tables"], content["figures"], content["ablation"]["studies"] = {}, {}, {}
    content.pop("search", None)
    mixture = content["methods"]["generalist_d_nt_linf"]["mixture"]
    mixture.update(breakpoints=[0, 2, 4, 6], warmup_epochs=4, communication_interval=1)
    for method in content["methods"].values():
        for learner in method["learners"].values():
            learner["schedule"].update(epochs=[0, 6], values=[1, 0.1])


@pytest.fixture
def params(
    raw: dict[str, Any], prepared_digits: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Params:
    """Of a folder where stages run."""
    shutil.copytree(prepared_digits, tmp_path / "data/prepared/digits")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    three(raw)
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return load_params(Path("params.yaml"))


def test_a_killed_warm_up_is_continued_and_its_members_end_as_they_would_alone(params: Params) -> None:
    command = [sys.executable, "-c", KILLED]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    experiments = list(params.experiments())
    assert epochs_of_warm_ups(experiments) == 2
    (warm_up,) = open_warm_ups(experiments)
    share_warm_up(warm_up, lambda: None)
    assert not warm_up_folder(warm_up.fingerprint).exists() and open_warm_ups(experiments) == []
    assert epochs_of_warm_ups(experiments) == 0
    shared = {one.name: digest_after_training(one) for one in experiments}
    for folder in ("runs", "results"):
        shutil.rmtree(folder)
    assert shared == {one.name: digest_after_training(one) for one in experiments}


def test_a_warm_up_goes_on_with_another_number_of_threads(params: Params) -> None:
    """And ends with all of its members trained; those that are trained in different ways share nothing."""

    def threads(experiment: Experiment, count: int) -> Experiment:
        training = experiment.training.model_copy(update={"threads": count})
        return experiment.model_copy(update={"training": training})

    first = [threads(one, 1) for one in params.experiments()]
    (warm_up,) = open_warm_ups(first)
    steps = iter([None, None, None, None, "stopped here"])
    with pytest.raises(Interrupted, match="stopped here"):
        share_warm_up(warm_up, lambda: next(steps))
    again = [threads(one, 2) for one in first]
    (continued,) = open_warm_ups(again)
    assert continued.fingerprint == warm_up.fingerprint and epochs_of_warm_ups(again) > 0
    share_warm_up(continued, lambda: None)
    assert open_warm_ups(again) == [] and all(list((state_folder(one) / "checkpoints").glob("*.pt")) for one in again)
    assert shared_warm_ups([first[0], *again[1:]]) != shared_warm_ups(again)


def digest_after_training(experiment: Any) -> str:
    train_experiment(experiment, lambda: None)
    return str(read_record(training_folder(experiment) / "summary.json")["weights_sha256"])


def test_another_process_that_trains_a_member_is_named(params: Params) -> None:
    (warm_up,) = open_warm_ups(params.experiments())
    with locked(params.experiment("at", 1)), pytest.raises(Busy, match="experiment at-1"):
        share_warm_up(warm_up, lambda: None)


def test_who_has_begun_is_left_out_and_the_others_share_what_is_left(params: Params) -> None:
    experiment = params.experiment("nt", 1)
    train_experiment(experiment, lambda: None)
    assert list((state_folder(experiment) / "checkpoints").glob("*.pt"))
    (warm_up,) = open_warm_ups(params.experiments())
    assert {one.name for one in warm_up.experiments} == {"at", "generalist_d_nt_linf"}
