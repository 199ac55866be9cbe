"""MLflow servers that are down, die, fail or hang, and databases that are damaged: nothing stops, nothing is lost."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import Any

import pytest

from pipeline.config import Experiment
from pipeline.core.errors import PipelineError
from pipeline.core.files import file_digest
from pipeline.experiments import complete
from pipeline.grid.local import free_port
from pipeline.tracking import awaits_delivery, deliver_left, finished_runs, track
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.spool import Record, spool_of
from pipeline.tracking.store import PATIENCE
from pipeline.tracking.updates import Receiver, Update
from stages import deliver
from tests.stages.conftest import METHOD, MakeWorkplace, Workplace, lengthen, wait_for
from tests.tracking.results import DATA, EXPERIMENT, all_runs, eventually, record, write_ood, write_results
from tests.tracking.servers import Mode, Proxy, Server, proxy

COMMAND = (METHOD, "--seed", "1")
TIMES = {"seconds", "images_per_second", "summary/seconds"}
"""What differs between any two runs."""
Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    """A real server that tests start and kill."""
    made = Server(tmp_path_factory.mktemp("server"), empty_store)
    try:
        yield made
    finally:
        made.kill()


def only_run(uri: str, suite: str) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(f"generalist/{suite}").experiment_id])
    return run


def curves(uri: str, suite: str) -> Curves:
    """Steps and values of every metric, in the order of their times; values of what is never the same are 0."""
    from mlflow import MlflowClient

    run = only_run(uri, suite)
    found: Curves = {}
    for key in run.data.metrics:
        if not key.startswith("system/"):
            history = MlflowClient(uri).get_metric_history(run.info.run_id, key)
            history.sort(key=lambda metric: (metric.timestamp, metric.step))
            found[key] = [(metric.step, 0.0 if key in TIMES else metric.value) for metric in history]
    return found


def artifacts(uri: str, suite: str) -> set[str]:
    from mlflow import MlflowClient

    return {item.path for item in MlflowClient(uri).list_artifacts(only_run(uri, suite).info.run_id)}


def of_training(found: Curves) -> Curves:
    return {key: values for key, values in found.items() if not key.startswith("test")}


def spooled(place: Workplace) -> list[Path]:
    return sorted(place.folder.glob("runs/*/tracking/*.json"))


def in_suite(name: str) -> Callable[[dict[str, Any]], None]:
    """The training of `uninterrupted`, in an MLflow experiment of its own."""

    def change(content: dict[str, Any]) -> None:
        lengthen(content)
        content["suite"] = name

    return change


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("warning: ")]


def test_a_server_that_is_down_from_the_start_stops_nothing_and_misses_nothing(
    server: Server, make_workplace: MakeWorkplace, uninterrupted: Workplace
) -> None:
    server.kill()
    place, store = make_workplace(in_suite("down")), f"sqlite:///{uninterrupted.folder}/mlflow.db"
    address = server.address.replace("//", "//me:s3cr3t@")
    for stage in ("train", "evaluate"):
        done = place.run(stage, *COMMAND, MLFLOW_TRACKING_URI=address)
        done.expect(0)
        (warning,) = warnings(done.err)
        assert f"http://me:***@127.0.0.1:{server.port} is out of reach" in warning
        assert "records for MLflow left in runs/" in done.err and "'python -m stages.deliver'" in done.err
        assert "s3cr3t" not in done.out + done.err
    waiting = len(spooled(place))
    assert waiting == 16 + 2 * 3, "every epoch, and of both stages the start, what was left, and the end"
    assert not [path for path in (place.folder / "runs").rglob("*.json") if "s3cr3t" in path.read_text()]
    delivery = place.run("deliver", MLFLOW_TRACKING_URI=address)
    delivery.expect(1, f"{waiting} records could not be delivered to MLflow, nothing of them is lost", "out of reach")

    server.start()
    tables = place.run("tables", MLFLOW_TRACKING_URI=address)
    assert f"delivered {waiting} records to MLflow that had waited" in tables.out
    assert "logged" not in tables.out, "what was delivered is not logged again"
    assert curves(server.address, "down") == curves(store, "digits")
    assert artifacts(server.address, "down") == artifacts(store, "digits")
    run, reference = only_run(server.address, "down"), only_run(store, "digits")
    assert (run.info.status, run.data.tags["evaluated"]) == ("FINISHED", "true")
    assert run.data.params == reference.data.params and set(run.data.tags) == set(reference.data.tags)
    assert spooled(place) == []


def test_a_server_that_is_killed_and_a_training_that_is_killed_meanwhile_lose_and_repeat_nothing(
    server: Server, make_workplace: MakeWorkplace, uninterrupted: Workplace
) -> None:
    server.start()
    place = make_workplace(in_suite("killed"))
    process = place.start("train", *COMMAND, MLFLOW_TRACKING_URI=server.address)
    wait_for(lambda: epochs_in(server, "killed") >= 1, process)
    server.kill()
    wait_for(lambda: len(spooled(place)) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert spooled(place)
    server.start()
    again = place.run("train", *COMMAND, MLFLOW_TRACKING_URI=server.address)
    again.expect(0)
    assert "MLflow has everything again" in again.err and warnings(again.err) == []
    reference = of_training(curves(f"sqlite:///{uninterrupted.folder}/mlflow.db", "digits"))
    assert curves(server.address, "killed") == reference
    assert only_run(server.address, "killed").info.status == "FINISHED"
    assert spooled(place) == []


def epochs_in(server: Server, suite: str) -> float:
    from mlflow import MlflowClient

    if MlflowClient(server.address).get_experiment_by_name(f"generalist/{suite}") is None:
        return 0.0
    from pipeline.tracking.store import open_store, search

    client, experiment_id = open_store(server.address, suite, create=False)
    return max((run.data.metrics.get("epoch", 0.0) for run in search(client, str(experiment_id), "")), default=0.0)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person is told."""
    lines: list[str] = []
    monkeypatch.setattr("pipeline.tracking.delivery._say", lines.append)
    return lines


@pytest.fixture
def between(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What lies between this process and the running server."""
    server.start()
    monkeypatch.chdir(tmp_path)
    with proxy(server) as made:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", made.address)
        yield made


@pytest.mark.parametrize("mode", ["down", "error", "hang"])
def test_an_outage_in_the_middle_costs_training_no_time_and_is_made_up_for(
    mode: Mode, between: Proxy, monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.tracking.delivery.RETRY", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    threads, attempt = set[Thread](), Delivery._attempt

    def counted(self: Delivery) -> Any:
        threads.add(current_thread())
        return attempt(self)

    monkeypatch.setattr(Delivery, "_attempt", counted)
    suite = f"middle {mode}"
    experiment = EXPERIMENT.model_copy(update={"suite": suite})
    spool = spool_of(experiment)
    with track(experiment, DATA) as run:
        for epoch in range(1, 13):
            if epoch == 4:
                eventually(lambda: len(spool) == 0 and not is_away(said))
                between.switch(mode)
            run.log_epoch(record(epoch))
            if epoch == 9:
                eventually(lambda: is_away(said))
                assert len(spool) == 6, "what the outage keeps back, and no more"
                monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # a slow answer is no second outage
                between.switch("up")
                eventually(lambda: len(spool) == 0)
                assert threads and main_thread() not in threads, "whoever trains waits for no answer"
        run.log_training(write_results(tmp_path / "results", experiment) / "train")
    found = curves(between.address, suite)
    assert found["epoch"] == [(epoch, float(epoch)) for epoch in range(1, 13)]
    assert found["loss/linf"] == [(epoch, 2.0 / epoch) for epoch in range(1, 13)]
    assert only_run(between.address, suite).info.status == "FINISHED"
    assert "model.safetensors" in artifacts(between.address, suite)
    # A busy machine may be a short outage of its own before.
    assert [is_away(said[: number + 1]) for number in range(len(said))] == [True, False] * (len(said) // 2)
    assert "The work goes on" in said[-2] and said[-1] == "nt-0: MLflow has everything again: 6 records delivered"


def is_away(said: list[str]) -> bool:
    return bool(said) and said[-1].startswith("warning: nt-0: MLflow at http://127.0.0.1:")


@pytest.mark.parametrize("mode", ["down", "error", "page", "hang"])
def test_a_store_that_takes_nothing_costs_the_end_of_a_stage_seconds(
    mode: Mode,
    between: Proxy,
    said: list[str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    between.switch(mode)
    experiment = EXPERIMENT.model_copy(update={"suite": f"never {mode}"})
    with track(experiment, DATA) as run:
        for epoch in range(1, 31):
            run.log_epoch(record(epoch))
        started = time.monotonic()
    assert time.monotonic() - started < 2 * PATIENCE + 60, "an attempt under way, and a last one"
    assert between.requests <= 10, "two attempts, whatever is logged meanwhile"
    assert len(said) == 2 and "32 records for MLflow left in runs/" in said[1]
    assert caplog.records == [] and capsys.readouterr().err == "", "libraries are silent"
    between.switch("up")
    assert deliver.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "delivered 32 records to MLflow that had waited"
    assert curves(between.address, experiment.suite)["epoch"] == [(epoch, float(epoch)) for epoch in range(1, 31)]
    assert deliver.main([]) == 0
    assert capsys.readouterr().out == "nothing waits for MLflow\n"


def everything(folder: Path, experiment: Experiment) -> list[Record]:
    """Records of all that an update may tell, as a training and an evaluation that nothing took have left them."""
    spool = spool_of(experiment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        with track(experiment, DATA) as run:
            run.log_epoch(record(1))
            run.log_training(write_results(folder, experiment) / "train")
            run.log_evaluation(folder / "evaluate")
            run.log_ood(write_ood(folder / "ood"))
    paths = sorted(spool.folder.glob("*.json"))
    return [Record(content, path.with_suffix(".files")) for content, path in zip(spool.records(), paths, strict=True)]


@pytest.mark.parametrize("kind", ["sqlite", "server"])
def test_records_that_are_delivered_twice_change_nothing(
    kind: str, server: Server, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """As after a kill between delivering and removing, at every single record."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/twice.db"
    if kind == "sqlite":
        shutil.copy(empty_store, tmp_path / "twice.db")
    else:
        server.start()
        uri = server.address
    experiment = EXPERIMENT.model_copy(update={"suite": "twice"})
    records = everything(tmp_path / "results", experiment)
    assert {key for record in records for key in record.content["update"]} == {field.name for field in fields(Update)}
    for one in records:
        Receiver(uri)(one)
        before = seen(uri)
        Receiver(uri)(one)
        assert seen(uri) == before
    found = curves(uri, "twice")
    assert found["epoch"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert all(len(values) == len(set(values)) for values in found.values())
    assert only_run(uri, "twice").info.status == "FINISHED"


def seen(uri: str) -> Any:
    """All that the run holds."""
    run = only_run(uri, "twice")
    inputs = [item.to_dictionary() for item in run.inputs.dataset_inputs]
    return run.info.to_proto(), run.data.to_dictionary(), inputs, curves(uri, "twice"), artifacts(uri, "twice")


def test_an_experiment_of_the_grid_is_completed_once_though_mlflow_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    done: list[str] = []

    def evaluate(experiment: Experiment, check: Callable[[], None]) -> None:
        done.append("evaluated")
        with track(experiment, DATA) as run:
            run.log_evaluation(write_results(tmp_path / "results", experiment) / "evaluate")

    monkeypatch.setattr(complete, "ensure_prepared", lambda *arguments: None)
    monkeypatch.setattr(complete, "train_experiment", lambda *arguments: done.append("trained"))
    monkeypatch.setattr(complete, "evaluate_experiment", evaluate)
    complete.complete_experiment(EXPERIMENT, lambda: None)
    assert "Whether nt-0 is done elsewhere is not known: it is worked on" in capsys.readouterr().out
    assert awaits_delivery(EXPERIMENT)
    complete.complete_experiment(EXPERIMENT, lambda: None)
    assert done == ["trained", "evaluated"]
    assert "3 records could not be delivered to MLflow" in capsys.readouterr().out


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])


def flip(path: Path) -> None:
    """A bit of a page's type, which is the first byte of the page: of one in the middle."""
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    content[len(content) // size // 2 * size] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [empty, truncate, flip])
def test_a_damaged_database_is_named_and_left_as_it_is(
    harm: Callable[[Path], None],
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    database = tmp_path / "mlflow.db"
    shutil.copy(empty_store, database)
    harm(database)
    before = file_digest(database)
    with track(EXPERIMENT, DATA) as run:
        run.log_epoch(record(1))
    assert file_digest(database) == before
    assert said[0].startswith(f"warning: nt-0: MLflow's database {database} is damaged: ")
    assert "Nothing was written to it. Move it away" in said[0] and "left in runs/" in said[1]
    with pytest.raises(PipelineError, match=r"is damaged: .* Nothing was written to it"):
        finished_runs([EXPERIMENT])
    left = deliver_left()
    assert (left.delivered, left.waiting) == (0, 3) and "Move it away" in left.describe()
    assert file_digest(database) == before and not (tmp_path / "mlartifacts").exists()

    shutil.copy(empty_store, tmp_path / "backup.db")
    (tmp_path / "backup.db").replace(database)
    assert deliver_left().delivered == 3
    (run_found,) = all_runs()
    assert (run_found.info.status, run_found.data.metrics["epoch"]) == ("FINISHED", 1.0)


def test_a_database_that_is_replaced_meanwhile_is_not_written_to_by_mistake(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with track(EXPERIMENT, DATA) as run:
        eventually(lambda: len(spool_of(EXPERIMENT)) == 0)
        shutil.copy(empty_store, tmp_path / "backup.db")
        (tmp_path / "backup.db").replace(tmp_path / "mlflow.db")
        run.log_epoch(record(1))
    assert "was removed or replaced while this process has it open" in said[0]
    assert len(spool_of(EXPERIMENT)) == 2
