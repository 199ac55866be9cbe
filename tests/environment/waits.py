"""Processes that wait, one kind each: `python -m tests.environment.waits KIND FOLDER`.

A scenario says 'begun' and then waits for something that never comes.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from stages import cli, ablation, experiments  # isort: skip - first: it settles the environment

FOR_EVER = 600
SLEEP = [sys.executable, "-c", f"import time; time.sleep({FOR_EVER})"]
Scenario = Callable[[Path], object]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    def enter(made: Scenario) -> Scenario:
        SCENARIOS[name] = made
        return made

    return enter


def begun() -> None:
    print("begun", flush=True)


def sleep(*arguments: Any, **options: Any) -> Any:
    """In place of what a library does."""
    time.sleep(FOR_EVER)


def held(path: Path) -> Any:
    """A lock that another process holds: a second opening counts as one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("a+")
    fcntl.flock(stream, fcntl.LOCK_EX)
    stream.write("process 1 on elsewhere since 2026-01-01 00:00:00\n")
    stream.flush()
    return stream


def silent_server() -> str:
    """The address of a server that takes connections and never answers; it is never closed."""
    server = socket.create_server(("127.0.0.1", 0))
    KEPT.append(server)
    return f"127.0.0.1:{server.getsockname()[1]}"


KEPT: list[Any] = []


@scenario("lock")
def lock(folder: Path) -> None:
    from pipeline.core.files import exclusive

    KEPT.append(held(folder / "lock"))
    begun()
    with exclusive(folder / "lock", "the data", wait=lambda: None):
        pass


@scenario("experiment")
def experiment(folder: Path) -> None:
    from pipeline.config import load_params
    from pipeline.core.files import Busy
    from pipeline.experiments import complete

    one = load_params(folder / "params.yaml").experiment("nt", 1)
    busy = Busy("experiment nt-1 is being worked on by another process")
    begun()
    with (
        patch.object(complete, "ensure_prepared"),
        patch.object(complete, "_is_done", return_value=False),
        patch.object(complete, "train_experiment", side_effect=busy),
    ):
        complete.complete_experiment(one, lambda: None)


@scenario("GPU")
def gpu(folder: Path) -> None:
    from pipeline.grid import slots

    KEPT.append(held(folder / "MIG-a.lock"))
    os.environ[slots.VISIBLE] = "MIG-a"
    begun()
    with patch.object(slots, "slots_folder", return_value=folder), slots.gpu_slot(lambda text: None, lambda: None):
        pass


def _job(rank: int, port: int) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"})


def _join(work: Callable[[Any], None]) -> None:
    import torch

    from pipeline.core.launch import believe_environment
    from pipeline.training.distributed import joined

    believe_environment()
    with joined(torch.device("cpu")) as ranks:
        work(ranks)


@scenario("meeting")
def meeting(folder: Path) -> None:
    import pipeline.training.distributed  # noqa: F401 - which takes seconds, and is no wait
    from pipeline.grid.local import free_port

    _job(0, free_port())
    begun()
    _join(lambda ranks: None)


@scenario("exchange")
def exchange(folder: Path) -> None:
    import torch

    from pipeline.grid.local import free_port

    port = free_port()
    command = [sys.executable, "-m", "tests.environment.waits", "second rank", str(folder), str(port)]
    KEPT.append(
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )  # it goes on, as one that hangs
    _job(0, port)

    def work(ranks: Any) -> None:
        begun()
        ranks.total(torch.ones(1))

    _join(work)


@scenario("Prefect server")
def server(folder: Path) -> None:
    from pipeline.grid.local import LocalEngine, free_port

    def start(engine: LocalEngine, name: str, *command: str) -> subprocess.Popen[bytes]:
        engine.processes[name] = subprocess.Popen(SLEEP)
        return engine.processes[name]

    engine = LocalEngine(folder, free_port())
    begun()
    with patch.object(LocalEngine, "start", start):
        try:
            engine.start_server()
        finally:
            engine.stop()


@scenario("workers")
def workers(folder: Path) -> None:
    from pipeline.grid.local import LocalEngine

    engine = LocalEngine(folder, int(silent_server().partition(":")[2]))
    begun()
    engine.wait_for_workers(2)


@scenario("Prefect commands")
def commands(folder: Path) -> None:
    from pipeline.grid.local import LocalEngine

    begun()
    with patch.object(LocalEngine, "_popen", lambda *arguments: subprocess.Popen(SLEEP)):
        LocalEngine(folder, 1).run_together([("work-pool", "create", "a"), ("work-pool", "create", "b")])


@scenario("ending")
def ending(folder: Path) -> None:
    import psutil

    from pipeline.core.processes import end

    text = f"import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep({FOR_EVER})"
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None and stubborn.stdout.readline()
        begun()
        try:
            end([psutil.Process(stubborn.pid)])
        finally:
            stubborn.kill()


@scenario("runs")
def runs(folder: Path) -> None:
    from pipeline.flows.submission import Submission

    client: Any = SimpleNamespace()
    begun()
    with (
        patch("pipeline.flows.submission.online", return_value=[]),
        patch.object(Submission, "_is_over", lambda _: False),
    ):
        Submission(client, client, 1, None).run([])


@scenario("named Prefect server")
def named(folder: Path) -> None:
    from pipeline.flows.server import check_server

    begun()
    check_server()


@scenario("logs")
def logs(folder: Path) -> None:
    from pipeline.flows import server

    begun()
    with patch("pipeline.flows.server.APILogWorker.drain_all", sleep):
        server.send_what_is_left()


@scenario("delivery")
def delivery(folder: Path) -> None:
    from pipeline.config import load_params
    from pipeline.tracking.delivery import Delivery
    from pipeline.tracking.updates import Update

    os.chdir(folder)
    made = Delivery(load_params(folder / "params.yaml").experiment("nt", 1), "unknown", sampled=False)
    begun()
    with patch.object(Delivery, "_attempt", sleep):
        made.finish(Update(status="FINISHED"))


def _turn(name: str, folder: Path) -> None:
    from pipeline.tracking import spool

    KEPT.append(held(folder / name))
    begun()
    patient = replace(spool.TURNS[name], patience=600.0)  # on a busy machine the signal may come after ten seconds
    with patch.dict(spool.TURNS, {name: patient}), spool.Spool(folder)._turn(name):
        pass


SCENARIOS["records"] = partial(_turn, "append.lock")
SCENARIOS["delivering"] = partial(_turn, "delivery.lock")


@scenario("MLflow's database")
def making(folder: Path) -> None:
    from pipeline.tracking import make_store

    KEPT.append(held(folder / "new.db.lock"))
    begun()
    make_store(f"sqlite:///{folder}/new.db")


@scenario("sqlite")
def sqlite(folder: Path) -> None:
    from pipeline.tracking.store import check_reachable

    with closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE a (b)")
        other.execute("BEGIN EXCLUSIVE")
        begun()
        check_reachable(f"sqlite:///{folder}/mlflow.db")


@scenario("MLflow")
def mlflow(folder: Path) -> None:
    from pipeline.tracking.store import search

    client: Any = SimpleNamespace(search_runs=sleep)
    begun()
    list(search(client, "1", ""))


@scenario("MLflow's page")
def page(folder: Path) -> None:
    from pipeline.grid.local import free_port
    from stages import ui

    begun()
    with subprocess.Popen(SLEEP) as server:
        try:
            ui._open_when_ready(server, free_port(), "http://127.0.0.1")
        finally:
            server.kill()


@scenario("DVC")
def dvc(folder: Path) -> None:
    program = folder / "dvc"
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep({FOR_EVER})\n")
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    begun()
    experiments.changed_in_dvc(["at-1"])


@scenario("probe")
def probe(folder: Path) -> None:
    from pipeline.config import load_params
    from pipeline.grid import plan

    os.chdir(folder)
    one = load_params(folder / "params.yaml").experiment("nt", 1)
    begun()
    with patch.object(plan, "probe", sleep):
        plan.costs([one])


@scenario("download")
def download(folder: Path) -> None:
    from pipeline.data.download import fetch

    begun()
    fetch(f"http://{silent_server()}/a", folder / "a", md5="")


def main() -> int:
    """Waits as stages do: those of the grid as `stages.ablation`, those of a training as `stages.train`."""
    from pipeline.core.signals import stop_on_signal

    name, folder = sys.argv[1], Path(sys.argv[2])
    if name == "second rank":
        _job(1, int(sys.argv[3]))
        _join(sleep)
    if name == "named Prefect server":
        os.environ["PREFECT_API_URL"] = f"http://{silent_server()}/api"

    def stage() -> None:
        with nullcontext() if os.environ.get("GRID") else stop_on_signal():
            SCENARIOS[name](folder)

    if os.environ.get("GRID"):
        with ablation.unwound_by_signals():
            return cli.run(stage)
    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
