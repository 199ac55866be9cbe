"""Stages that are killed, stopped and damaged in the middle end with the bits of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.files import file_digest
from tests.stages.conftest import (
    EPOCHS,
    METHOD,
    Finished,
    MakeWorkplace,
    Workplace,
    interrupt,
    lengthen,
    wait_for,
)

pytestmark = pytest.mark.timeout(1800)

ARGUMENTS = (METHOD, "--seed", "1")


@dataclass(frozen=True)
class Ordeal:
    """A training that was killed three times, stopped twice, robbed of its newest checkpoint, and then finished."""

    place: Workplace
    killed: list[Finished]
    second: Finished
    """Another process that wanted to train the same experiment meanwhile."""
    holder: int
    """Process that trained then."""
    unchanged: bool
    """Whether that other process left all files as they were."""
    terminated: Finished
    control_c: Finished
    damaged: Path
    last: Finished


@pytest.fixture(scope="module")
def ordeal(make_workplace: MakeWorkplace) -> Ordeal:
    place, moments = make_workplace(lengthen), random.Random(20240511)
    killed = []
    for _ in range(3):
        process = start_and_wait_for_a_new_checkpoint(place)
        time.sleep(moments.uniform(0, 0.25))
        killed.append(interrupt(process, signal.SIGKILL))
    process = start_and_wait_for_a_new_checkpoint(place)
    os.kill(process.pid, signal.SIGSTOP)
    wait_for(lambda: all(state == "T" for state in thread_states(process)), process)  # one may be within a write
    before = place.files()
    second = place.run("train", *ARGUMENTS)
    unchanged = place.files() == before
    os.kill(process.pid, signal.SIGCONT)
    terminated = interrupt(process, signal.SIGTERM)
    control_c = interrupt(start_and_wait_for_a_new_checkpoint(place), signal.SIGINT)
    damaged = place.checkpoints()[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    last = place.run("train", *ARGUMENTS)
    return Ordeal(place, killed, second, process.pid, unchanged, terminated, control_c, damaged, last)


def thread_states(process: subprocess.Popen[str]) -> list[str]:
    """Of every thread of a process: T where it is stopped."""
    texts = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    return [text.rpartition(") ")[2][0] for text in texts]


def start_and_wait_for_a_new_checkpoint(place: Workplace) -> subprocess.Popen[str]:
    before = place.checkpoints()[-1:]
    process = place.start("train", *ARGUMENTS)
    wait_for(lambda: place.checkpoints()[-1:] != before, process)
    return process


def test_a_killed_and_stopped_training_ends_with_the_same_bits(ordeal: Ordeal, uninterrupted: Workplace) -> None:
    assert [finished.code for finished in ordeal.killed] == [-signal.SIGKILL] * 3
    ordeal.last.expect(0)
    assert ordeal.place.weights(METHOD) == uninterrupted.weights(METHOD)
    assert history(ordeal.place) == history(uninterrupted)


def history(place: Workplace) -> list[dict[str, float]]:
    """The recorded curves without times."""
    records = json.loads((place.folder / f"results/digits/{METHOD}-1/train/history.json").read_text())
    return [{k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in records]


@pytest.mark.parametrize("name", ["terminated", "control_c"])
def test_a_stop_on_demand_saves_first_and_says_how_to_go_on(ordeal: Ordeal, name: str) -> None:
    finished: Finished = getattr(ordeal, name)
    reason = {"terminated": "SIGTERM", "control_c": "SIGINT"}[name]
    finished.expect(75, f"stopped: {reason} received: saved runs/", ".pt; the same command continues from there")


def test_the_next_start_says_where_it_continues(ordeal: Ordeal) -> None:
    saved = ordeal.terminated.err.split("saved ")[1].split(";")[0]
    epoch, step = (int(part) for part in Path(saved).stem.split("-"))
    assert f"continuing after epoch {epoch}, step {step}\n" in ordeal.control_c.out


def test_a_second_process_is_turned_away_with_the_name_of_the_first(ordeal: Ordeal) -> None:
    ordeal.second.expect(2, f"experiment {METHOD}-1 is being worked on by another process (process {ordeal.holder} on ")
    assert ordeal.unchanged


def test_the_checkpoint_before_a_damaged_one_is_used(ordeal: Ordeal) -> None:
    place = ordeal.damaged.relative_to(ordeal.place.folder)
    (line,) = [line for line in ordeal.last.out.splitlines() if "damaged" in line]
    assert f"checkpoint {place} is damaged (SHA-256 " in line and line.endswith("the one before it is used")


def test_mlflow_has_one_finished_run_with_whole_curves(ordeal: Ordeal) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{ordeal.place.folder}/mlflow.db")
    (run,) = client.search_runs([item.experiment_id for item in client.search_experiments()])
    assert run.info.status == "FINISHED"
    for key in history(ordeal.place)[0]:
        curve = client.get_metric_history(run.info.run_id, key)
        assert {metric.step for metric in curve} == set(range(1, EPOCHS + 1)), key
        assert len({(metric.step, metric.value) for metric in curve}) == EPOCHS, f"{key} is not the same when repeated"


def test_a_killed_evaluation_goes_on_to_the_same_verdicts(ordeal: Ordeal, uninterrupted: Workplace) -> None:
    place, moments = ordeal.place, random.Random(20240512)
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 75), (signal.SIGTERM, 75)):
        process, pieces = place.start("evaluate", *ARGUMENTS), len(journal(place)) + moments.randint(1, 2)
        wait_for_pieces(pieces, place, process)
        assert interrupt(process, number).code == code
    before = {path: file_digest(path) for path in journal(place)}
    place.run("evaluate", *ARGUMENTS).expect(0)
    assert len(before) < len(journal(place)) and all(file_digest(path) == digest for path, digest in before.items())
    verdicts = f"results/digits/{METHOD}-1/evaluate/verdicts.parquet"
    assert (place.folder / verdicts).read_bytes() == (uninterrupted.folder / verdicts).read_bytes()


def wait_for_pieces(count: int, place: Workplace, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: len(journal(place)) >= count, process)


def journal(place: Workplace) -> list[Path]:
    """The finished pieces of the evaluation."""
    return sorted(place.folder.glob("runs/*/*/evaluation/*/*/[!.]*.json"))
