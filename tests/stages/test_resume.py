"""A stage that is killed and stopped in the middle ends with the bits of one that was left alone.

Every stage, at every moment and in every way: tests/faults/test_faults.py; every method, in one process:
tests/training/test_loop.py.
"""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stages.conftest import EPOCHS, METHOD, Finished, MakeWorkplace, Workplace, interrupt, lengthen, wait_for

pytestmark = pytest.mark.timeout(1800)

ARGUMENTS = (METHOD, "--seed", "1")


@dataclass(frozen=True)
class Ordeal:
    """A training that was killed, stopped from the keyboard, and then finished."""

    place: Workplace
    killed: Finished
    control_c: Finished
    last: Finished


@pytest.fixture(scope="module")
def ordeal(make_workplace: MakeWorkplace) -> Ordeal:
    place = make_workplace(lengthen)
    killed = interrupt(start_and_wait_for_a_new_checkpoint(place), signal.SIGKILL)
    control_c = interrupt(start_and_wait_for_a_new_checkpoint(place), signal.SIGINT)
    return Ordeal(place, killed, control_c, place.run("train", *ARGUMENTS))


def start_and_wait_for_a_new_checkpoint(place: Workplace) -> subprocess.Popen[str]:
    before = place.checkpoints()[-1:]
    process = place.start("train", *ARGUMENTS)
    wait_for(lambda: place.checkpoints()[-1:] != before, process)
    return process


def test_a_killed_and_stopped_training_ends_with_the_same_bits(ordeal: Ordeal, uninterrupted: Workplace) -> None:
    assert ordeal.killed.code == -signal.SIGKILL
    ordeal.last.expect(0)
    assert ordeal.place.weights(METHOD) == uninterrupted.weights(METHOD)
    assert history(ordeal.place) == history(uninterrupted)


def history(place: Workplace) -> list[dict[str, float]]:
    """The recorded curves without times."""
    records = json.loads((place.folder / f"results/digits/{METHOD}-1/train/history.json").read_text())
    return [{k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in records]


def test_a_stop_on_demand_saves_first_and_the_next_start_says_where_it_continues(ordeal: Ordeal) -> None:
    ordeal.control_c.expect(75, "stopped: SIGINT received: saved runs/", ".pt; the same command continues from there")
    saved = ordeal.control_c.err.split("saved ")[1].split(";")[0]
    epoch, step = (int(part) for part in Path(saved).stem.split("-"))
    assert f"continuing after epoch {epoch}, step {step}\n" in ordeal.last.out


def test_mlflow_has_one_finished_run_with_whole_curves(ordeal: Ordeal) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{ordeal.place.folder}/mlflow.db")
    (run,) = client.search_runs([item.experiment_id for item in client.search_experiments()])
    assert run.info.status == "FINISHED"
    for key in history(ordeal.place)[0]:
        curve = client.get_metric_history(run.info.run_id, key)
        assert {metric.step for metric in curve} == set(range(1, EPOCHS + 1)), key
        assert len({(metric.step, metric.value) for metric in curve}) == EPOCHS, f"{key} is not the same when repeated"
