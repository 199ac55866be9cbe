"""`stages.experiments`, but for what tests/test_chain.py does with the real DVC."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.config import load_params
from pipeline.core.errors import Interrupted, PipelineError, RequestError
from pipeline.core.files import exclusive
from pipeline.core.signals import stop_on_signal
from pipeline.grid.plan import passes_left
from stages import evaluate, experiments, train
from tests.conftest import REPOSITORY

NAMES = ["nt-1", "at-1", "generalist_t-1"]


def chosen(names: list[str]) -> list[str]:
    return list(experiments.chosen(list(load_params(REPOSITORY / "params.yaml").experiments()), names))


def test_the_experiments_are_those_that_are_named_or_all() -> None:
    assert chosen(["at-1", "nt-1"]) == ["nt-1", "at-1"] and len(chosen([])) == 8


def test_what_is_left_of_a_training_counts_attacks_learners_and_epochs() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    order = ["generalist_t", "at_linf_l2", "trades_1", "at", "nt"]
    left = [passes_left(params.experiment(name, 1), 0) for name in order]
    assert left == sorted(left, reverse=True)
    assert left[0] / left[-1] == 3 + params.threat_model["linf"].steps + params.threat_model["l2"].steps
    assert passes_left(params.experiment("generalist_t", 1), 9) < left[1]


def test_an_unknown_experiment_is_refused_with_the_likely_one() -> None:
    with pytest.raises(RequestError, match=r"unknown experiment 'generalist_t-2'.*generalist_t-1"):
        chosen(["generalist_t-2"])


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is recorded for DVC, which is not asked."""
    found: list[str] = []

    def record(*arguments: str) -> str:
        found.extend(arguments)
        return ""

    monkeypatch.setattr(experiments, "_dvc", record)
    monkeypatch.setattr(experiments, "IMPORTED", ())
    monkeypatch.setattr("pipeline.experiments.warm_up.open_warm_ups", lambda experiments: [])
    return found


def run(monkeypatch: pytest.MonkeyPatch, training: dict[str, int], evaluation: dict[str, int]) -> None:
    """Three experiments whose stages end with given exit codes."""
    monkeypatch.setattr(train, "main", lambda arguments: training.get(arguments[0], 0))
    monkeypatch.setattr(evaluate, "main", lambda arguments: evaluation.get(arguments[0], 0))
    params = load_params(REPOSITORY / "params.yaml")
    wanted = {name: params.experiment(name[:-2], 1) for name in NAMES}
    experiments.run(Path("params.yaml"), wanted, to_train={"nt-1", "generalist_t-1"}, jobs=2)


def test_what_is_done_is_recorded(monkeypatch: pytest.MonkeyPatch, recorded: list[str]) -> None:
    run(monkeypatch, {}, {})
    assert set(recorded) >= {f"{stage}@{name}" for stage in ("train", "evaluate") for name in NAMES}


def test_what_is_trained_already_is_evaluated_alone(monkeypatch: pytest.MonkeyPatch, recorded: list[str]) -> None:
    run(monkeypatch, {"at": 1}, {})
    assert "evaluate@at-1" in recorded, "its training would have failed"


def test_one_that_fails_takes_no_other_along(monkeypatch: pytest.MonkeyPatch, recorded: list[str]) -> None:
    with pytest.raises(PipelineError, match=r"2 of 3 experiments failed, 1 are done: .*nt-1 \(exit code 1\)"):
        run(monkeypatch, {"nt": 1}, {"at": 2})
    assert {name for name in recorded if "@" in name} == {"train@generalist_t-1", "evaluate@generalist_t-1"}


def test_those_that_were_stopped_can_go_on(monkeypatch: pytest.MonkeyPatch, recorded: list[str]) -> None:
    with pytest.raises(Interrupted, match="2 of 3 experiments are done; the same command continues"):
        run(monkeypatch, {"nt": 75}, {})
    assert "train@nt-1" not in recorded


@pytest.fixture(autouse=True)
def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The timers that a stage sets: there is one for a process, and pytest needs it for its own limit."""
    asked: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda timer, seconds: asked.append(seconds))
    return asked


def test_the_end_of_a_lease_saves_and_stops(
    monkeypatch: pytest.MonkeyPatch, recorded: list[str], timers: list[float]
) -> None:
    """Begun in the order of the file, as many as fit; the one that runs is told to save."""

    def train_for_long(arguments: list[str]) -> int:
        if arguments[0] == "nt":
            return 0
        with stop_on_signal() as should_stop:
            os.kill(os.getppid(), signal.SIGALRM)  # the lease is over
            while should_stop() is None:
                time.sleep(0.01)
        return Interrupted.exit_code

    monkeypatch.setattr(train, "main", train_for_long)
    monkeypatch.setattr(evaluate, "main", lambda arguments: 0)
    params = load_params(REPOSITORY / "params.yaml")
    wanted = {name: params.experiment(name[:-2], 1) for name in NAMES}
    with pytest.raises(Interrupted, match="1 of 3 experiments are done; the same command continues"):
        experiments.run(Path("params.yaml"), wanted, set(NAMES), jobs=1, stop_after=9.5)
    assert timers[:1] == [9.5]
    assert {name for name in recorded if "@" in name} == {"train@nt-1", "evaluate@nt-1"}


def test_what_dvc_says_in_vain_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"'dvc --wait-for-lock status \.\.\.' ended with exit code"):
        experiments.changed_in_dvc(NAMES)


def test_one_with_the_settings_of_another_begins_after_it(
    monkeypatch: pytest.MonkeyPatch, recorded: list[str], tmp_path: Path
) -> None:
    """Two names, one fingerprint: side by side the second would find the first at work."""
    params = load_params(REPOSITORY / "params.yaml")
    one, other = params.experiment("nt", 1), params.experiment("at", 1)
    twin = one.model_copy(update={"name": "again"})
    assert twin.fingerprint == one.fingerprint
    wanted = {"nt-1": one, "again-1": twin, "at-1": other}
    assert experiments.twins(wanted) == {"again-1": "nt-1"}

    def work(arguments: list[str]) -> int:
        lock = tmp_path / ("lock" if arguments[0] in ("nt", "again") else "other")
        with exclusive(lock, arguments[0]):
            time.sleep(0.3)
        return 0

    monkeypatch.setattr(train, "main", work)
    monkeypatch.setattr(evaluate, "main", lambda arguments: 0)
    experiments.run(Path("params.yaml"), wanted, to_train=set(wanted), jobs=3)
    assert "train@again-1" in recorded and "train@nt-1" in recorded
