"""Stops and deaths of the grid that take minutes: no part of `make test` but of CI."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
import urllib.request
from collections import Counter
from typing import Any

import psutil
import pytest

from pipeline.grid.local import LocalEngine
from tests.conftest import REPOSITORY
from tests.stages import test_local_grid
from tests.stages.conftest import MakeWorkplace, Workplace, finish, interrupt, listening, wait_for
from tests.stages.test_ablation import (
    DONE,
    EPOCHS,
    eight_and_a_broken_one,
    kill_with_children,
    prefect_in,
    second_checkpoints,
    worker_of,
)
from tests.stages.test_local_grid import at_work, epochs, remembered, start, two, with_a_grid
from tests.tracking.results import all_runs, epochs_of

PATIENCE = 1200.0
pytestmark = pytest.mark.timeout(PATIENCE + 300)


def eight(content: dict[str, Any]) -> None:
    eight_and_a_broken_one(content)
    del content["ablation"]["studies"]["broken"]


def runs_of(engine: LocalEngine, flow: str) -> list[dict[str, Any]]:
    """All runs of a flow, as the server shows them."""
    body = json.dumps({"flows": {"name": {"any_": [flow]}}}).encode()
    request = urllib.request.Request(
        f"{engine.url}/flow_runs/filter", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def test_a_worker_and_the_grid_die_elsewhere(make_workplace: MakeWorkplace) -> None:
    """Which only heartbeats can tell: the grid is in another folder, as on another machine, and sees no locks."""
    place, elsewhere = make_workplace(eight), make_workplace(eight)
    store = f"sqlite:///{place.folder}/mlflow.db"
    shutil.copy(REPOSITORY / "prefect.yaml", elsewhere.folder)
    with prefect_in(place, MLFLOW_TRACKING_URI=store) as engine:
        engine.deploy()
        with contextlib.chdir(elsewhere.folder):
            engine.run("--no-prompt", "deploy", "--name", "ablation-grid")
        engine.run("automation", "create", "--from-file", "automations.yaml")
        for name in ("worker-1", "worker-2"):
            engine.start_worker(name)
        engine.start_worker("grids-1", "grids")
        engine.wait_for_workers(2)
        engine.run("deployment", "run", "ablation-grid/ablation-grid")
        kill_a_worker_and_the_grid(place, engine)
        assert not (elsewhere.folder / "runs/flows").exists()
        engine.start_worker("grids-2", "grids")
        deadline = time.monotonic() + PATIENCE
        while not {run["state_type"] for run in runs_of(engine, "ablation-grid")} <= {"COMPLETED", "FAILED"}:
            assert time.monotonic() < deadline, runs_of(engine, "ablation-grid")
            time.sleep(1)
        (grid,) = runs_of(engine, "ablation-grid")
        ends = Counter(run["state_type"] for run in runs_of(engine, "experiment"))
    assert (grid["state_type"], grid["run_count"]) == ("COMPLETED", 2)
    assert ends["CRASHED"] == 1 and set(ends) == {"CRASHED", "COMPLETED"}
    database = place.folder / "mlflow.db"
    found = all_runs(database)
    assert [run.info.status for run in found] == ["FINISHED"] * DONE
    assert all(epochs_of(database, run) == list(range(1, EPOCHS + 1)) for run in found)


def kill_a_worker_and_the_grid(place: Workplace, engine: LocalEngine) -> None:
    """As soon as an experiment has finished its second epoch."""
    deadline = time.monotonic() + PATIENCE
    while not second_checkpoints(place.folder):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_with_children(worker_of(second_checkpoints(place.folder)[0], engine))
    kill_with_children(psutil.Process(engine.processes["grids-1"].pid))


def test_a_grid_that_is_stopped_and_killed_leaves_nothing_behind_and_is_finished(make_workplace: MakeWorkplace) -> None:
    place = with_a_grid(make_workplace, two)
    first = start(place)
    wait_for(lambda: epochs(place) >= 2, first)
    stopped = interrupt(first, signal.SIGTERM)
    assert stopped.code == 75 and "the same command continues" in stopped.err, stopped
    assert not at_work(place.folder)

    second, saved = start(place), epochs(place)
    wait_for(lambda: epochs(place) > saved, second)
    second.kill()
    finish(second)
    left = remembered(place)
    assert len(left) == 2 and set(left) <= at_work(place.folder)
    assert {address.ip for pid in left for address in listening(psutil.Process(pid))} == {"127.0.0.1"}

    third = start(place)
    wait_for(lambda: not set(left) & at_work(place.folder), third)
    saved = epochs(place)
    wait_for(lambda: epochs(place) > saved, third)
    kill_with_children(only_worker(place))
    finished = finish(third)
    finished.expect(0)
    assert "ending 2 processes that an earlier start left behind" in finished.out
    assert "worker-1 died and is started again" in finished.out
    assert not at_work(place.folder)
    assert not list((place.folder / "runs/flows").iterdir())
    database = place.folder / "mlflow.db"
    runs = all_runs(database)
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert all(epochs_of(database, run) == list(range(1, test_local_grid.EPOCHS + 1)) for run in runs)


def only_worker(place: Workplace) -> psutil.Process:
    (worker,) = (one for one in map(psutil.Process, remembered(place)) if "worker" in one.cmdline())
    return worker
