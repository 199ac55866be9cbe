"""Branches in the folders of experiments: two at once, killed, within a shared warm-up, and what is said."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Experiment, Params, load_params
from pipeline.core.files import read_record
from pipeline.experiments.train import train_experiment
from pipeline.experiments.warm_up import open_warm_ups, share_warm_up
from pipeline.provenance.folders import RUNS, training_folder
from tests.conftest import PATIENCE, REPOSITORY
from tests.experiments import test_warm_up
from tests.experiments.test_warm_up import METHODS

params = test_warm_up.params
D = "generalist_d_nt_linf"
TRAINED = """
import os, sys
from pathlib import Path
from pipeline.config import load_params
from pipeline.experiments.train import train_experiment

path, name, killed_at = sys.argv[1:]
killed = [] if killed_at == "-" else [killed_at]
stop = lambda: os.kill(os.getpid(), 9) if any(list(Path("runs").glob(one)) for one in killed) else None
train_experiment(load_params(Path(path)).experiment(name, 1), stop)
"""


@dataclass(frozen=True)
class Variant:
    """Generalist-D with other settings, under a name of its own, in a file of its own."""

    name: str
    path: Path

    @property
    def experiment(self) -> Experiment:
        return load_params(self.path).experiment(self.name, 1)

    def train(self) -> dict[str, Any]:
        """Train it here; gives its summary."""
        train_experiment(self.experiment, lambda: None)
        return read_record(training_folder(self.experiment) / "summary.json")

    def process(self, killed_at: str = "-") -> subprocess.Popen[str]:
        """Train it in a process of its own, which dies once a file of such a name is there."""
        return subprocess.Popen(
            [sys.executable, "-c", TRAINED, str(self.path), self.name, killed_at],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def alone(self) -> str:
        """The digest of its weights where nothing is there to go on from."""
        for folder in (RUNS, Path("results")):
            shutil.rmtree(folder)
        return str(self.train()["weights_sha256"])


@pytest.fixture
def variant(params: Params) -> Callable[..., Variant]:
    """Writes a variant, with other settings of the mixture or of training."""

    def write(name: str = D, mixture: dict[str, Any] | None = None, **training: Any) -> Variant:
        content = yaml.safe_load(Path("params.yaml").read_text())
        method = content["methods"].setdefault(name, {**deepcopy(content["methods"][D]), "label": name})
        method["mixture"].update(mixture or {})
        content["training"].update(training)
        path = Path(f"{name}-{len(list(Path.cwd().glob('*.yaml')))}.yaml")
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return Variant(name, path)

    return write


def test_two_that_begin_from_the_same_point_at_once_end_as_they_would_alone(variant: Callable[..., Variant]) -> None:
    variant().train()
    two = [variant("longer", {"communication_interval": 5}), variant("later", {"warmup_epochs": 5})]
    for one, running in [(one, one.process()) for one in two]:
        said, _ = running.communicate(timeout=PATIENCE)
        assert running.returncode == 0, said
        assert f"{one.name}-1 goes on from runs" in said and "00003-" in said
    summaries = [one.train() for one in two]
    assert all(found["shared_warm_up"].startswith(f"epochs 1 to 4 of {D}-1 (") for found in summaries)
    assert [found["weights_sha256"] for found in summaries] == [one.alone() for one in two]


@pytest.mark.parametrize("moment", ["trunk", "branch"])
def test_who_is_killed_in_the_trunk_or_in_the_branch_ends_as_it_would_alone(
    moment: str, variant: Callable[..., Variant]
) -> None:
    first, second = variant(), variant("longer", epochs=8)
    killed, epoch = (first, 2) if moment == "trunk" else (second, 7)
    for one in (first, second):
        if one is killed:
            running = one.process(f"{one.experiment.fingerprint}/*/checkpoints/{epoch:05d}-*.json")
            said, _ = running.communicate(timeout=PATIENCE)
            assert running.returncode == -signal.SIGKILL, said
        summary = one.train()
    assert summary["shared_warm_up"].startswith(f"epochs 1 to 6 of {D}-1 (")
    assert summary["weights_sha256"] == second.alone()


def test_a_member_of_a_warm_up_that_can_branch_does_not_train_it(
    variant: Callable[..., Variant], capsys: pytest.CaptureFixture[str]
) -> None:
    variant().train()
    experiments = list(load_params(variant(D, {"communication_interval": 2}).path).experiments())
    (warm_up,) = open_warm_ups(experiments)
    assert {member.name for member in warm_up.experiments} == set(METHODS)
    capsys.readouterr()
    share_warm_up(warm_up, lambda: None)
    said = capsys.readouterr().out
    assert f"{D}-1 goes on from runs" in said and "have learners in common" not in said
    assert open_warm_ups(experiments) == []


def test_what_keeps_it_from_going_on_is_said(
    variant: Callable[..., Variant], capsys: pytest.CaptureFixture[str]
) -> None:
    variant().train()
    capsys.readouterr()
    variant(D, validation_interval=2).train()
    left = "it leaves what was trained before in epoch 1 in validation: false, there true"
    assert f"{D}-1 is trained from the start: {left}" in capsys.readouterr().out
