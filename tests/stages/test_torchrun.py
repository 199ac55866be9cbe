"""torchrun: a killed process ends the job and says so, a signal saves, and any number of processes continues."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline.core import launch
from pipeline.grid.local import free_port
from stages import train
from tests.conftest import REPOSITORY
from tests.running import without_times
from tests.stages.conftest import (
    EPOCHS,
    METHOD,
    Finished,
    MakeWorkplace,
    Workplace,
    clean_environment,
    finish,
    interrupt,
    lengthen,
    wait_for,
)
from tests.tracking.results import all_runs, epochs_of


def history(place: Workplace) -> list[dict[str, float]]:
    """The recorded curves without times."""
    return without_times(json.loads((place.folder / f"results/digits/{METHOD}-1/train/history.json").read_text()))


def start(place: Workplace, count: int, *arguments: str) -> subprocess.Popen[str]:
    """Start training on so many processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    process = subprocess.Popen(
        [*launcher, "-m", "stages.train", *arguments],
        cwd=place.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    place.processes.append(process)
    return process


def rank_of(launcher: subprocess.Popen[str], rank: int) -> psutil.Process:
    """The process that torchrun has started for a rank."""
    children = psutil.Process(launcher.pid).children()
    return next(child for child in children if child.environ().get("RANK") == str(rank))


@dataclass(frozen=True)
class Job:
    """A training that lost a process of two, was stopped on two, and then finished on one."""

    place: Workplace
    killed: Finished
    stopped: Finished
    last: Finished


@pytest.fixture(scope="module")
def job(make_workplace: MakeWorkplace) -> Job:
    place = make_workplace(lengthen)

    def until_a_new_checkpoint(count: int, end: Callable[[subprocess.Popen[str]], Finished]) -> Finished:
        before = place.checkpoints()[-1:]
        process = start(place, count, METHOD, "--seed", "1")
        wait_for(lambda: place.checkpoints()[-1:] != before, process)
        return end(process)

    def kill_second(process: subprocess.Popen[str]) -> Finished:
        rank_of(process, 1).kill()
        return finish(process)

    killed = until_a_new_checkpoint(2, kill_second)
    stopped = until_a_new_checkpoint(2, lambda process: interrupt(process, signal.SIGTERM))
    return Job(place, killed, stopped, place.run("train", METHOD, "--seed", "1"))


def test_a_killed_process_ends_the_job_with_a_message(job: Job) -> None:
    assert job.killed.code == 1
    assert "error: process 0 of 2 (from 0) lost the others: one was killed, ran out of memory or left" in job.killed.err
    assert "the same command continues from there, with any number of processes" in job.killed.err


def test_a_signal_saves_once_and_for_all(job: Job) -> None:
    (line,) = [line for line in job.stopped.err.splitlines() if "saved runs/" in line]
    assert line.startswith("stopped: ") and line.endswith(".pt; the same command continues from there")
    assert job.stopped.out.count("continuing after epoch ") == 1, "the first process alone speaks"


def test_one_process_finishes_what_several_have_begun(job: Job, uninterrupted: Workplace) -> None:
    job.last.expect(0)
    assert "continuing after epoch " in job.last.out
    found, expected = (history(place) for place in (job.place, uninterrupted))
    assert [record["epoch"] for record in found] == [record["epoch"] for record in expected]
    # Later, training has multiplied what sums in another order differ by.
    for name in ("loss/linf", "loss/natural", "train_accuracy/natural"):
        assert found[0][name] == pytest.approx(expected[0][name], rel=1e-3)
    assert len(list(job.place.folder.glob("runs/*"))) == 1


def test_mlflow_has_one_run_of_all_processes(job: Job) -> None:
    database = job.place.folder / "mlflow.db"
    (run,) = all_runs(database)
    assert run.info.status == "FINISHED"
    assert epochs_of(database, run) == list(range(1, EPOCHS + 1))


def test_a_network_of_ones_own_is_trained_by_two(make_workplace: MakeWorkplace) -> None:
    """It is imported from the folder in which torchrun was started."""
    place = make_workplace(lambda content: content["model"].update(architecture="mine:Awkward"))
    (place.folder / "mine.py").write_text("from tests.training.test_own_networks import Awkward as Awkward\n")
    finish(start(place, 2, "generalist_t", "--seed", "1")).expect(0)
    state = load_file(place.folder / "results/digits/generalist_t-1/train/model.safetensors")
    assert torch.equal(state["inner.weight"], state["again.weight"])
    assert all(torch.isfinite(value).all() for value in state.values())


def test_a_network_whose_statistics_cannot_be_shared_is_refused_by_two(make_workplace: MakeWorkplace) -> None:
    settings = {"architecture": "timm:create_model", "fit": True, "arguments": {"model_name": "mobilenetv3_small_050"}}
    place = make_workplace(lambda content: content["model"].update(settings))
    done = finish(start(place, 2, "nt", "--seed", "1"))
    assert done.code != 0 and done.err.count("error: BatchNormAct2d 'bn1' of the network would have") == 1, done.err
    assert "Train on one process" in done.err


@pytest.mark.parametrize("launcher", [launch.TORCHRUN, "nobody's"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_happens_before_the_processes_meet_is_said_by_whoever_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, launcher: str
) -> None:
    monkeypatch.chdir(REPOSITORY)
    job = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "1"}
    for name, value in {**job, "MASTER_ADDR": "127.0.0.1", launcher: "1"}.items():
        monkeypatch.setenv(name, value)
    assert train.main(["generalist", "--seed", "1"]) == 2
    who = "process 1: " if (rank, launcher) == ("1", launch.TORCHRUN) else ""
    assert capsys.readouterr().err.startswith(f"{who}error: unknown method 'generalist'")


def test_a_process_without_the_others_says_for_whom_it_waits(workplace: Workplace) -> None:
    """A wrapper starts one process of four, and is believed: it says what it waits for, and stops within seconds."""
    job = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}
    wrapped = {**job, "MASTER_PORT": str(free_port())}
    process = workplace.start("train", "nt", "--seed", "1", launch.OPTION, **wrapped)
    assert process.stdout is not None
    line = next(line for line in process.stdout if "waiting" in line)
    assert re.search(r"waiting for process 0 of 4, .* since \d\d:\d\d:\d\d, until \d\d:\d\d:\d\d at most", line)
    process.send_signal(signal.SIGINT)
    finished = finish(process)  # in far less than the half an hour that the wait lasts
    assert finished.code == 75 and "SIGINT received while waiting for process 0 of 4" in finished.err, finished
    alone = workplace.run("train", "nt", "--seed", "1", **wrapped)
    alone.expect(0)
    assert "WORLD_SIZE=4 is in the environment, but torchrun has not started this process: it works alone" in alone.out


def test_nothing_of_a_job_is_left(job: Job) -> None:
    mine = [child for child in psutil.process_iter(["cwd"]) if child.info["cwd"] == str(job.place.folder)]
    assert [child for child in mine if child.pid != os.getpid()] == []
