"""The grid on a real Prefect server with real workers, of which one is killed with its experiment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.config import load_params
from pipeline.grid.local import LocalEngine, free_port
from pipeline.studies.trials import Search
from tests.conftest import REPOSITORY, keep
from tests.stages.conftest import Finished, MakeWorkplace, Workplace, finish, wait_for
from tests.tracking.results import all_runs, epochs_of

pytestmark = pytest.mark.timeout(1800)
METHOD = "generalist_d_nt_linf"
EPOCHS = 8
INTERVALS = [1, 2, 3, 4, 5]
RATIOS = [[1, 1, 1, 0], [1, 1, 0.8, 0.2], [1, 1, 1, 0.5], [0.5, 0.5, 0.5, 0.5]]
DONE = len(INTERVALS) + len(RATIOS) - 1  # 1-1-1-0 is c = 2
PATIENCE = 600.0
SEARCH = {
    "method": METHOD,
    "space": {
        "first_ratio_end": {"low": 0, "high": 0.5},
        "communication_interval": {"low": 2, "high": 2},
        "warmup_epochs": {"low": 1, "high": 4},
    },
    "trials": 3,
    "at_a_time": 2,
    "seeds": [1],
}
"""The method as it is, which the grid trains, too, and two others."""


def eight_and_a_broken_one(content: dict[str, Any]) -> None:
    """A grid of eight experiments that last seconds, and of one whose loss is soon not finite; each trains by itself.

    Grids whose experiments share a warm-up: tests/stages/test_local_grid.py, tests/stages/faults_grid.py.
    """
    keep(content, [METHOD], ["pgd20_linf", "noise_linf"])
    content["methods"]["broken"] = deepcopy(content["methods"][METHOD])
    content["methods"]["broken"]["learners"]["natural"]["optimizer"]["learning_rate"] = 1e30
    content["ablation"]["attempts"] = 2
    content["training"].update(epochs=EPOCHS, share_warm_ups=False, branch_gigabytes=0)
    content["data"]["train_images"] = 160
    interval = {"label": "c", "varies": "communication_interval"}
    content["search"] = SEARCH
    content["ablation"]["studies"] = {
        "intervals": {**interval, "methods": [METHOD], "values": INTERVALS},
        "broken": {**interval, "methods": ["broken"], "values": [2]},
        "ratios": {"label": "gamma", "varies": "first_ratio", "methods": [METHOD], "values": RATIOS},
    }


@dataclass(frozen=True)
class Story:
    """A grid that was asked for twice at once, and that lost a worker with its experiment on the way."""

    place: Workplace
    engine: LocalEngine
    killed: str
    """Fingerprint of the experiment that was killed after its second epoch."""
    without_deployment: Finished
    by_stage: Finished
    by_deployment: subprocess.CompletedProcess[str]

    def log(self, name: str) -> str:
        return (self.engine.home / "logs" / f"{name}.log").read_text()

    def epochs(self) -> list[tuple[str, int]]:
        """Every experiment and epoch that a worker has finished."""
        lines = self.log("worker-1") + self.log("worker-2")
        found = re.findall(rf"- (\S+): epoch (\d+)/{EPOCHS}  (?:(?!step).)*loss", lines)
        return [(name, int(epoch)) for name, epoch in found]


@contextlib.contextmanager
def prefect_in(place: Workplace, **environment: str) -> Iterator[LocalEngine]:
    """A server whose processes work in a folder, which is the current one meanwhile."""
    for name in ("prefect.yaml", "automations.yaml"):
        shutil.copy(REPOSITORY / name, place.folder)
    shutil.copytree(REPOSITORY / "conf", place.folder / "conf", dirs_exist_ok=True)
    engine = LocalEngine(place.folder / "prefect", free_port())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # workers stop by it, and would inherit that it is ignored
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(place.folder):
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment}.items():
            patch.setenv(name, value)
        try:
            engine.start_server()
            yield engine
        finally:
            engine.stop()


@pytest.fixture(scope="module")
def story(make_workplace: MakeWorkplace) -> Iterator[Story]:
    place = make_workplace(eight_and_a_broken_one)
    (place.folder / "mlflow.db").unlink()  # workers find no store
    with prefect_in(place) as engine:
        without_deployment = place.run("ablation", **engine.environment)
        engine.deploy()
        engine.start_worker("grids-1", "grids")
        engine.start_worker("worker-1")
        engine.start_worker("worker-2")
        engine.wait_for_workers(2)
        by_deployment = subprocess.Popen(
            [sys.executable, "-m", "prefect", "deployment", "run", "ablation-grid/ablation-grid", "--watch"],
            env=os.environ | engine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        by_stage = place.start("ablation", **engine.environment)
        killed = kill_one_worker_and_its_run(place, engine, by_stage)
        out, _ = by_deployment.communicate(timeout=PATIENCE)
        ended = subprocess.CompletedProcess(by_deployment.args, by_deployment.returncode, out)
        yield Story(place, engine, killed, without_deployment, finish(by_stage), ended)


def kill_one_worker_and_its_run(place: Workplace, engine: LocalEngine, grid: subprocess.Popen[str]) -> str:
    """Kill the worker whose experiment is the first to have finished a second epoch, with all below it."""
    wait_for(lambda: second_checkpoints(place.folder), grid)
    checkpoint = second_checkpoints(place.folder)[0]
    kill_with_children(worker_of(checkpoint, engine))
    return checkpoint.parents[2].name


def worker_of(checkpoint: Path, engine: LocalEngine) -> psutil.Process:
    """The worker that runs the process which has left a checkpoint."""
    holder = (checkpoint.parents[2] / "lock").read_text()
    family = {process.pid for process in psutil.Process(int(re.findall(r"process (\d+)", holder)[0])).parents()}
    (worker,) = (process.pid for process in engine.processes.values() if process.pid in family)
    return psutil.Process(worker)


def kill_with_children(process: psutil.Process) -> None:
    for member in [process, *process.children(recursive=True)]:
        member.kill()


def second_checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("runs/*/*/checkpoints/*.json") if path.name.startswith("00002-"))


def test_both_grids_come_to_their_end(story: Story) -> None:
    assert story.by_stage.code == 1, story.by_stage.err
    assert story.by_stage.err.endswith(
        "error: the grid ended Failed: 1 of 9 experiments are set aside; see the summary\n"
    )
    assert "Flow run finished in state 'Failed'" in story.by_deployment.stdout, story.by_deployment.stdout
    assert "1 of 9 experiments are set aside" in story.log("grids-1")


def test_prefect_shows_experiments_below_a_grid_and_how_far_they_are(story: Story) -> None:
    """On the real server, whose pages show what its API gives."""

    def ask(what: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        request = urllib.request.Request(
            f"{story.engine.url}/{what}/filter", json.dumps(wanted).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found

    grids = ask("flow_runs", {"flows": {"name": {"any_": ["ablation-grid"]}}})
    below = ask("flow_runs", {"flow_runs": {"parent_flow_run_id": {"any_": [grid["id"] for grid in grids]}}})
    assert len(below) == len(ask("flow_runs", {"flows": {"name": {"any_": ["experiment"]}}})) > 0
    kept = ask("artifacts", {"artifacts": {"type": {"any_": ["progress"]}}})
    assert {one["flow_run_id"] for one in kept} <= {run["id"] for run in below}
    assert all(0 <= one["data"] <= 100 for one in kept)
    assert any(re.search(r"(epoch \d+/\d+|attack \d/\d), .*(left, ends|done in)", one["description"]) for one in kept)
    assert re.search(r"\d of 9 done, .* left, ends \S+", story.by_stage.err), story.by_stage.err  # a log of Prefect


def test_every_experiment_has_one_finished_run(story: Story) -> None:
    database = story.place.folder / "mlflow.db"
    runs = all_runs(database)
    assert Counter(run.info.status for run in runs) == {"FINISHED": DONE, "FAILED": 1}
    for run in runs:
        if run.info.status == "FINISHED":
            assert epochs_of(database, run) == list(range(1, EPOCHS + 1)), run.data.tags["method"]
            assert run.data.tags["evaluated"] == "true"
        else:
            assert run.data.tags["method"].startswith("broken")
            assert "the loss of learner 'natural' is nan" in run.data.tags["failure"]


def test_mlflow_groups_runs_by_what_a_study_varies(story: Story) -> None:
    runs = [run for run in all_runs(story.place.folder / "mlflow.db") if run.info.status == "FINISHED"]
    found = {(run.data.tags.get("study.intervals"), run.data.tags.get("study.ratios")) for run in runs}
    assert {interval for interval, _ in found} == {None, *(f"c = {number}" for number in INTERVALS)}
    assert ("c = 2", "1-1-1-0") in found, "the same experiment belongs to both studies"


def test_both_workers_take_part_and_no_epoch_is_trained_twice(story: Story) -> None:
    assert all(f": epoch 1/{EPOCHS} " in story.log(name) for name in ("worker-1", "worker-2"))
    trained = Counter(story.epochs())
    assert max(trained.values()) == 1, [epoch for epoch, count in trained.items() if count > 1]
    names = {name for name, _ in trained}
    assert len(names) == DONE


def test_the_killed_experiment_continues_from_its_checkpoint(story: Story) -> None:
    lines = (story.log("worker-1") + story.log("worker-2")).splitlines()
    starts = [number for number, line in enumerate(lines) if line.endswith(f", {story.killed}")]
    (continued,) = (line for line in lines if "continuing after epoch" in line)
    assert len(starts) == 2
    assert int(re.findall(r"after epoch (\d+), step 0", continued)[0]) >= 2


def test_the_summary_has_every_cell_and_the_last_lines_of_what_was_set_aside(story: Story) -> None:
    text = (story.place.folder / "results/ablation/digits/summary.md").read_text()
    assert sum("%" in line for line in text.splitlines()) == len(INTERVALS) + len(RATIOS)
    assert "| broken | broken | c = 2 | 1 | set aside |" in text
    aside = text.split("is set aside:")[1]
    assert "the loss of learner 'natural' is nan, stopped before the update" in aside


def test_a_grid_without_deployment_says_which_commands_make_it(story: Story) -> None:
    story.without_deployment.expect(
        2,
        "no deployment 'experiment/experiment'",
        "prefect work-pool create --type process experiments",
        "prefect --no-prompt deploy --all",
    )


def test_a_dry_run_of_another_suite_submits_nothing(story: Story) -> None:
    """Of the deployment, with the parameters that people give."""
    command = [sys.executable, "-m", "prefect", "deployment", "run", "ablation-grid/ablation-grid", "--watch"]
    chosen = {"suite": "digits", "studies": '["communication_interval"]', "seeds": "[1, 2]", "group_seconds": "0"}
    given = [word for name, value in chosen.items() for word in ("-p", f"{name}={value}")]
    environment = os.environ | story.engine.environment
    finished = subprocess.run(
        [*command, *given, "-p", "dry_run=true"], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    said = story.log("grids-1")
    assert "dry run: 6 runs of 6 experiments" in said
    assert "run 6: generalist_t_communication_interval_c_7_120-2" in said
    assert not list(story.place.folder.glob("results/ablation/digits/generalist_t*"))


def test_a_search_that_is_killed_goes_on_with_the_same_workers(story: Story) -> None:
    place, environment = story.place, story.engine.environment
    first = place.start("search", **environment)
    wait_for(lambda: trials_in(place, "RUNNING") == 2, first)
    first.kill()
    finish(first)
    second = place.run("search", **environment)
    second.expect(0)
    said = second.out + second.err
    assert "0 of 3 trials are done; now 0, 1" in said and "2 of 3 trials are done; now 2" in said
    assert trials_in(place, "COMPLETE") == 3 and trials_in(place, "RUNNING") == 0
    search = Search.of(load_params(place.folder / "params.yaml"))
    runs = [run for run in all_runs(place.folder / "mlflow.db") if f"trial_of_{search.digest}" in run.data.tags]
    assert {run.data.tags["method"] == METHOD for run in runs} == {True, False} and len(runs) == 3
    trained = [name for name, epoch in story.epochs() if epoch == 1]
    assert max(Counter(trained).values()) == 1 and sum("_search_" in name for name in trained) == 2
    summary = (place.folder / "reports/digits/small_cnn/search.md").read_text()
    assert summary.startswith(f"{METHOD}: 3 trials, 0 failed, ") and "as in params.yaml" in summary

    third = place.run("search")
    third.expect(0)
    assert third.out == f"{summary}\n", "what is done needs no server"


def trials_in(place: Workplace, state: str) -> int:
    """Trials of the only search with all of their settings."""
    count = 0
    for file in place.folder.glob("runs/searches/*/optuna.db"):
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            query = (
                "select count(*) from trials where state = ? and "
                "(select count(*) from trial_params where trial_params.trial_id = trials.trial_id) = 3"
            )
            with contextlib.suppress(sqlite3.OperationalError):  # it is being made
                count += connection.execute(query, [state]).fetchone()[0]
    return count


def test_a_search_that_is_not_possible_is_refused(workplace: Workplace) -> None:
    workplace.change(lambda content: content["search"]["space"]["warmup_epochs"].update(high=12))
    before = workplace.files()
    workplace.call("search").expect(2, "the search is not possible, nothing was started", "lies beyond the last epoch")
    assert workplace.files() == before
    workplace.change(lambda content: content["search"].update(method="at"))
    workplace.call("search").expect(2, "search.method: 'at' has no mixture", "Valid: generalist_d_nt_linf")


def test_a_finished_grid_is_done_at_once(story: Story) -> None:
    story.place.change(lambda content: content["ablation"]["studies"].pop("broken"))
    started = time.monotonic()
    finished = story.place.run("ablation")
    finished.expect(0)
    assert finished.out == "every experiment of the grid is done\n"
    assert time.monotonic() - started < 60


def test_a_grid_without_server_says_which_command_starts_it(workplace: Workplace) -> None:
    finished = workplace.run("ablation", PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api")
    finished.expect(2, "does not answer", "prefect server start")
    assert "probing" not in finished.out


def test_a_grid_with_impossible_cells_lists_them_and_starts_nothing(workplace: Workplace) -> None:
    workplace.change(lambda content: content["ablation"]["studies"]["second_ratio"]["methods"].append("at"))
    workplace.change(lambda content: content["ablation"]["studies"]["communication_interval"]["values"].append(7))
    before = workplace.files()
    finished = workplace.call("ablation")
    finished.expect(
        2,
        "the grid has 2 impossible cells, nothing was started",
        "second_ratio: at, every setting: it has no mixture with the rule 'moving_average' to vary",
        "communication_interval: generalist_t, c = 7: it divides none of the epochs from warmup_epochs 2 to the last",
    )
    assert workplace.files() == before
