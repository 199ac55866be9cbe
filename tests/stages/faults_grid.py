"""Deaths that only heartbeats can tell: `make faults-grid`, minutes of waiting, so no part of `make test`.

The grid runs in another folder than the experiments, as on another machine: it does not see their locks.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import urllib.request
from collections import Counter
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from pipeline.grid.local import LocalEngine
from tests.conftest import REPOSITORY
from tests.stages.conftest import MakeWorkplace, Workplace
from tests.stages.test_ablation import (
    DONE,
    EPOCHS,
    eight_and_a_broken_one,
    kill_with_children,
    prefect_in,
    second_checkpoints,
    worker_of,
)

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
    client = MlflowClient(store)
    found = client.search_runs([item.experiment_id for item in client.search_experiments()])
    assert [run.info.status for run in found] == ["FINISHED"] * DONE
    for run in found:
        steps = sorted(metric.step for metric in client.get_metric_history(run.info.run_id, "epoch"))
        assert steps == list(range(1, EPOCHS + 1))


def kill_a_worker_and_the_grid(place: Workplace, engine: LocalEngine) -> None:
    """As soon as an experiment has finished its second epoch."""
    deadline = time.monotonic() + PATIENCE
    while not second_checkpoints(place.folder):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_with_children(worker_of(second_checkpoints(place.folder)[0], engine))
    kill_with_children(psutil.Process(engine.processes["grids-1"].pid))
