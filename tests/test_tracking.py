"""MLflow runs in real sqlite stores, one real server, and real processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from pipeline.config import OOD_METRICS, AttackBudget, Experiment, parse_params
from pipeline.errors import Interrupted, PipelineError, RequestError
from pipeline.tracking import (
    DataDescription,
    download,
    ensure_logged,
    ensure_ood_logged,
    finished_runs,
    mask,
    read_class_accuracies,
    read_experiment,
    read_histories,
    read_run,
    register_model,
    runs_of_other_protocols,
    track,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

DATA = DataDescription("digits", "0123456789abcdef" * 4, {"train": 1137, "test": 360})
METRICS = {"natural": 0.9, "pgd_linf": 0.4, "pgd_l2": 0.5, "union": 0.45}
COUNTS = {"natural": 360, "pgd_linf": 64, "pgd_l2": 64, "union": 64}


def experiments(epsilon: float = 0.1, label: str = "NT") -> list[Experiment]:
    """The experiments of a small suite: one method, eight seeds; `epsilon` changes the evaluation alone."""
    learner = {
        "objective": {"name": "natural"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "schedule": {"epochs": [0.01 * step for step in range(200)], "values": [1.0] * 200},
    }
    attack = {"name": "pgd", "epsilon": epsilon, "step_size": 0.1, "steps": 1}
    raw = {
        "suite": "small",
        "tables_folder": "reports/small",
        "description": "A suite for tests.",
        "protocol": "paper",
        "seeds": list(range(8)),
        "data": {"name": "digits", "held_out_images": 300},
        "model": {"architecture": "small_cnn"},
        "threat_model": {},
        "training": {"epochs": 3, "batch_size": 8, "selection": {"split": "held_out"}},
        "methods": {"nt": {"label": label, "learners": {"natural": learner}}},
        "evaluation": {
            "batch_size": 8,
            "attacks": {"pgd_linf": {**attack, "norm": "linf"}, "pgd_l2": {**attack, "norm": "l2"}},
            "union": ["pgd_linf", "pgd_l2"],
        },
        "tables": {},
    }
    return list(parse_params(raw).experiments())


EXPERIMENT = experiments()[0]


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of its own in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def all_runs() -> list[Run]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri())
    return list(client.search_runs([item.experiment_id for item in client.search_experiments()]))


def only_run() -> Run:
    (run,) = all_runs()
    return run


def curve(key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri()).get_metric_history(only_run().info.run_id, key)
    return sorted((metric.step, metric.value) for metric in history)


def artifacts(run: Run) -> set[str]:
    from mlflow import MlflowClient

    return {item.path for item in MlflowClient(tracking_uri()).list_artifacts(run.info.run_id)}


def record(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "loss/linf": 2.0 / epoch, "held_out/global/natural": 0.25 * epoch, "seconds": 1.5}


def write_results(folder: Path, experiment: Experiment = EXPERIMENT, weights: str = "one") -> Path:
    """The files that the stages leave."""
    train, evaluate = folder / "train", folder / "evaluate"
    train.mkdir(parents=True, exist_ok=True)
    evaluate.mkdir(exist_ok=True)
    summary = {
        "fingerprint": experiment.fingerprint,
        "data_digest": DATA.digest,
        "weights_sha256": weights,
        "epochs": 3,
        "selected_epoch": 2,
        "seconds": 4.5,
        "device": "cpu",
        "versions": {"torch": "2.15.0"},
        "git_commit": "c0ffee-dirty",
    }
    evaluation = {
        "evaluation_fingerprint": experiment.evaluation_fingerprint,
        "metrics": METRICS,
        "counts": COUNTS,
        "intervals": {name: [value / 2, 1.0] for name, value in METRICS.items()},
    }
    (train / "summary.json").write_text(json.dumps(summary))
    (train / "history.json").write_text(json.dumps([record(epoch) for epoch in (1, 2, 3)]))
    (train / "model.safetensors").write_bytes(b"weights")
    (evaluate / "metrics.json").write_text(json.dumps(evaluation))
    (evaluate / "verdicts.parquet").write_bytes(b"verdicts")
    (evaluate / "classes.csv").write_text("attack,label,images,accuracy,low,high\n")
    (evaluate / "trust.json").write_text('{"suspicious": true, "signs": []}')
    return folder


def write_ood(folder: Path, weights: str = "one") -> Path:
    """The files that `measure_ood` leaves."""
    folder.mkdir()
    content = {
        "ood_fingerprint": EXPERIMENT.ood_fingerprint,
        "weights_sha256": weights,
        "provenance": {"corruptions": "regenerated"},
        "metrics": dict.fromkeys(OOD_METRICS, 0.25),
        "images": 6,
    }
    (folder / "metrics.json").write_text(json.dumps(content))
    for name in ("corruptions.csv", "perturbations.csv"):
        (folder / name).write_text("name\n")
    return folder


def train_and_evaluate(folder: Path, experiment: Experiment = EXPERIMENT) -> None:
    with track(experiment, DATA) as run:
        for epoch in (1, 2, 3):
            run.log_epoch(record(epoch))
        run.log_training(folder / "train")
    with track(experiment, DATA) as run:
        run.log_evaluation(folder / "evaluate")


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, pipeline.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_says_what_it_is_and_holds_what_was_measured(store: Path) -> None:
    train_and_evaluate(write_results(store / "results"))

    run = only_run()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "nt-0 small_cnn"
    expected = {
        "fingerprint": EXPERIMENT.fingerprint,
        "evaluation_fingerprint": EXPERIMENT.evaluation_fingerprint,
        "suite": "small",
        "method": "nt",
        "protocol": "paper",
        "seed": "0",
        "dataset": "digits",
        "data_digest": DATA.digest,
        "architecture": "small_cnn",
        "trained": "true",
        "evaluated": "true",
        "weights_sha256": "one",
        "device": "cpu",
        "versions.torch": "2.15.0",
        "git.commit": "c0ffee",
        "git.dirty": "true",
    }
    assert run.data.tags.items() >= expected.items()
    assert run.data.metrics["test/union"] == 0.45
    assert run.data.metrics["test_images/pgd_l2"] == 64
    assert (run.data.metrics["test_low/union"], run.data.metrics["test_high/union"]) == (0.225, 1.0)
    assert run.data.tags["gradient_masking"] == "suspected"
    assert run.data.metrics["summary/selected_epoch"] == 2
    assert curve("loss/linf") == [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]
    trained = {"experiment.json", "history.json", "model.safetensors", "summary.json"}
    assert artifacts(run) == trained | {"verdicts.parquet", "metrics.json", "classes.csv", "trust.json"}
    assert run.info.artifact_uri.startswith((store / "mlartifacts" / "small").as_uri())
    assert not (store / "mlruns").exists()
    settings = next((store / "mlartifacts").rglob("experiment.json"))
    assert json.loads(settings.read_text()) == EXPERIMENT.model_dump(mode="json")


def test_parameters_are_what_the_fingerprint_covers_and_cuts_are_visible(store: Path) -> None:
    with track(EXPERIMENT, DATA):
        pass
    params = only_run().data.params
    assert params["training.epochs"] == "3"
    assert params["learners.natural.optimizer.name"] == "sgd"
    assert params["mixture"] == "null"
    assert not any("label" in key for key in params)
    breakpoints = params["learners.natural.schedule.epochs"]
    assert len(breakpoints) == 500
    assert breakpoints.startswith("[0.0, 0.01,")
    assert breakpoints.endswith(" ... (in full in experiment.json)")


def test_the_data_set_is_an_input_with_its_digest_and_counts(store: Path) -> None:
    for _ in range(2):
        with track(EXPERIMENT, DATA):
            pass
    (entry,) = only_run().inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("digits", DATA.digest[:32])
    assert json.loads(entry.dataset.profile) == {"train": 1137, "test": 360}


@pytest.mark.parametrize(
    ("error", "status"),
    [(Interrupted("stop"), "KILLED"), (KeyboardInterrupt(), "KILLED"), (PipelineError("loss is NaN"), "FAILED")],
)
def test_the_status_tells_how_a_run_ended(store: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), track(EXPERIMENT, DATA):
        assert only_run().info.status == "RUNNING"
        raise error
    assert only_run().info.status == status


def test_a_killed_run_is_continued_without_losing_or_repeating_epochs(store: Path) -> None:
    with pytest.raises(Interrupted), track(EXPERIMENT, DATA) as run:
        run.log_epoch(record(1))
        raise Interrupted("killed after the checkpoint of epoch 2, before epoch 2 was logged")
    renamed = experiments(label="natural training")[0]
    with track(renamed, DATA) as run:
        run.log_epoch(record(3))
        run.log_training(write_results(store / "results") / "train")
    assert only_run().info.status == "FINISHED"
    assert curve("loss/linf") == [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]
    assert curve("epoch") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_metrics_that_are_not_finite_are_refused(store: Path) -> None:
    with pytest.raises(PipelineError, match=r"step 2 .* loss/linf = nan"), track(EXPERIMENT, DATA) as run:
        run.log_epoch({**record(2), "loss/linf": float("nan")})
    assert only_run().info.status == "FAILED"
    assert curve("epoch") == []


def test_a_store_that_breaks_meanwhile_does_not_hide_what_stopped_the_run(store: Path) -> None:
    with pytest.raises(Interrupted, match="stop") as stopped, track(EXPERIMENT, DATA) as run:
        with sqlite3.connect(store / "mlflow.db") as connection:
            connection.execute("DROP TABLE metrics")
            connection.execute("DROP TABLE runs")
        with pytest.raises(PipelineError, match=r"MLflow at sqlite:.* failed: .*no such table"):
            run.log_epoch(record(1))
        raise Interrupted("stop")
    assert "no such table" in stopped.value.__notes__[0]


def test_system_metrics_are_sampled_while_a_run_is_open(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with track(EXPERIMENT, DATA):
        deadline = time.monotonic() + 20
        while not curve("system/cpu_utilization_percentage") and time.monotonic() < deadline:
            time.sleep(0.1)
    assert curve("system/cpu_utilization_percentage")


def test_only_runs_of_the_same_training_and_evaluation_are_found(store: Path) -> None:
    train_and_evaluate(write_results(store / "results"))
    with track(experiments()[1], DATA) as run:
        run.log_training(write_results(store / "other", experiments()[1]) / "train")  # trained, not evaluated

    frame = finished_runs(experiments())
    (row,) = frame.to_dict("records")
    assert row["run_id"] in {run.info.run_id for run in all_runs()}
    assert (row["method"], row["seed"], row["suite"], row["protocol"]) == ("nt", 0, "small", "paper")
    assert row["fingerprint"] == EXPERIMENT.fingerprint
    assert row["evaluation_fingerprint"] == EXPERIMENT.evaluation_fingerprint
    assert abs(time.time() - row["end_time"].timestamp()) < 60
    assert {name: row[f"metric.{name}"] for name in METRICS} == METRICS
    assert {name: row[f"count.{name}"] for name in COUNTS} == COUNTS
    assert finished_runs(experiments(epsilon=0.2)).empty


def test_several_runs_of_one_experiment_come_with_the_latest_last(store: Path) -> None:
    from mlflow import MlflowClient

    write_results(store / "results")
    train_and_evaluate(store / "results")
    client = MlflowClient(tracking_uri())
    first = only_run()
    tags = {key: value for key, value in first.data.tags.items() if not key.startswith("mlflow.")}
    second = client.create_run(first.info.experiment_id, tags=tags)
    client.log_metric(second.info.run_id, "test/natural", 0.8)
    for run, finished in ((second, 1_000), (first, 2_000)):
        client.set_terminated(run.info.run_id, end_time=finished)
    assert list(finished_runs([EXPERIMENT])["run_id"]) == [second.info.run_id, first.info.run_id]


def test_other_weights_take_the_evaluation_off_a_run(store: Path) -> None:
    train_and_evaluate(write_results(store / "results"))
    with track(EXPERIMENT, DATA) as run:
        run.log_training(store / "results" / "train")
    assert len(finished_runs([EXPERIMENT])) == 1
    with track(EXPERIMENT, DATA) as run:
        run.log_training(write_results(store / "results", weights="two") / "train")
    assert finished_runs([EXPERIMENT]).empty


def test_other_weights_take_the_numbers_on_corrupted_images_off_a_run(store: Path) -> None:
    folder = write_results(store / "results")
    train_and_evaluate(folder)
    assert ensure_ood_logged(EXPERIMENT, write_ood(store / "ood"))
    assert finished_runs([EXPERIMENT])["metric.ood_c"].item() == 0.25
    train_and_evaluate(write_results(folder, weights="two"))
    assert "metric.ood_c" not in finished_runs([EXPERIMENT])


def test_an_evaluation_that_is_logged_in_part_leaves_no_mark(store: Path) -> None:
    folder = write_results(store / "results")
    train_and_evaluate(folder)
    again = write_results(store / "again", experiments(epsilon=0.2)[0])
    (again / "evaluate" / "trust.json").unlink()
    with pytest.raises(FileNotFoundError), track(experiments(epsilon=0.2)[0], DATA) as run:
        run.log_evaluation(again / "evaluate")
    assert finished_runs([EXPERIMENT]).empty and finished_runs(experiments(epsilon=0.2)).empty
    assert ensure_logged(EXPERIMENT, folder)
    assert len(finished_runs([EXPERIMENT])) == 1


def test_accuracies_on_corrupted_images_that_are_logged_in_part_leave_no_mark(store: Path) -> None:
    train_and_evaluate(write_results(store / "results"))
    assert ensure_ood_logged(EXPERIMENT, write_ood(store / "ood"))
    (store / "ood" / "perturbations.csv").unlink()
    with pytest.raises(FileNotFoundError), track(EXPERIMENT, DATA) as run:
        run.log_ood(store / "ood")
    assert "metric.ood_c" not in finished_runs([EXPERIMENT])


def test_settings_of_an_evaluation_that_was_not_finished_are_not_those_of_the_numbers(store: Path) -> None:
    train_and_evaluate(write_results(store / "results"))
    assert read_experiment(read_run(only_run().info.run_id)) == EXPERIMENT
    with pytest.raises(Interrupted), track(experiments(epsilon=0.2)[0], DATA):
        raise Interrupted("stop")
    with pytest.raises(PipelineError, match=r"not finished, its numbers are of another one; .* evaluate@nt-0'"):
        read_experiment(read_run(only_run().info.run_id))


def test_a_second_evaluation_replaces_the_numbers_of_the_first(store: Path) -> None:
    folder = write_results(store / "results")
    train_and_evaluate(folder)
    content = json.loads((folder / "evaluate" / "metrics.json").read_text())
    (folder / "evaluate" / "metrics.json").write_text(json.dumps({**content, "metrics": {"natural": 0.1}}))
    with track(EXPERIMENT, DATA) as run:
        run.log_evaluation(folder / "evaluate")
    assert list(finished_runs([EXPERIMENT])["metric.natural"]) == [0.1]


def test_results_from_the_cache_are_logged_once(store: Path) -> None:
    folder = write_results(store / "results")
    (store / "mlflow.db").unlink()
    assert not ensure_logged(EXPERIMENT, store / "nowhere")
    assert not ensure_logged(experiments(epsilon=0.2)[0], folder)
    assert not ensure_logged(experiments()[1], folder)
    assert not (store / "mlflow.db").exists()

    assert ensure_logged(EXPERIMENT, folder)
    assert not ensure_logged(EXPERIMENT, folder)
    assert len(finished_runs([EXPERIMENT])) == 1
    assert curve("loss/linf") == [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]
    assert only_run().data.tags["git.commit"] == "c0ffee"


def test_corrupted_images_from_the_cache_are_logged_once_and_with_their_weights_alone(store: Path) -> None:
    (store / "mlflow.db").unlink()
    ood = write_ood(store / "ood")
    assert not ensure_ood_logged(EXPERIMENT, ood)
    assert not (store / "mlflow.db").exists()
    train_and_evaluate(write_results(store / "results"))
    ended = only_run().info.end_time
    assert not ensure_ood_logged(EXPERIMENT, store / "nowhere")
    assert not ensure_ood_logged(EXPERIMENT, write_ood(store / "others", weights="two"))
    assert not ensure_ood_logged(experiments()[1], ood)
    assert ensure_ood_logged(EXPERIMENT, ood)
    assert not ensure_ood_logged(EXPERIMENT, ood)
    found = finished_runs([EXPERIMENT])
    assert (found["metric.ood_p"].item(), found["ood_provenance"].item()) == (0.25, "corruptions regenerated")
    assert (only_run().info.status, only_run().info.end_time) == ("FINISHED", ended)


def test_a_run_that_stopped_before_its_results_is_completed_from_the_files(store: Path) -> None:
    with pytest.raises(Interrupted), track(EXPERIMENT, DATA) as run:
        run.log_epoch(record(1))
        raise Interrupted("stop")
    assert ensure_logged(EXPERIMENT, write_results(store / "results"))
    assert only_run().info.status == "FINISHED"
    assert curve("epoch") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_damaged_result_names_the_file(store: Path) -> None:
    folder = write_results(store / "results")
    (folder / "train" / "summary.json").write_text('{"fingerprint": ')
    with pytest.raises(PipelineError, match=r"summary\.json: is damaged"):
        ensure_logged(EXPERIMENT, folder)


def log_one(experiment: Experiment, folder: Path) -> None:
    os.chdir(folder)
    with track(experiment, DATA) as run:
        for epoch in (1, 2, 3):
            run.log_epoch(record(epoch))


def test_eight_processes_share_a_store_that_does_not_exist_yet(store: Path) -> None:
    (store / "mlflow.db").unlink()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=log_one, args=(experiment, store)) for experiment in experiments()]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    runs = all_runs()
    assert sorted(run.data.tags["seed"] for run in runs) == list("01234567")
    assert len({run.info.experiment_id for run in runs}) == 1
    assert {(run.info.status, run.data.metrics["epoch"]) for run in runs} == {("FINISHED", 3.0)}


def test_runs_of_another_protocol_stand_in_for_the_same_method_seed_data_and_network(store: Path) -> None:
    budget = AttackBudget(epsilon=0.031, step_size=1, steps=1)
    other = EXPERIMENT.model_copy(update={"protocol": "reference_code", "threat_model": {"linf": budget}})
    train_and_evaluate(write_results(store / "results", other), other)
    assert finished_runs(experiments()).empty
    (row,) = runs_of_other_protocols(experiments()).to_dict("records")
    assert (row["protocol"], row["method"], row["seed"]) == ("reference_code", "nt", 0)
    assert row["same_attacks"]
    (stronger,) = runs_of_other_protocols(experiments(epsilon=0.2)).to_dict("records")
    assert not stronger["same_attacks"]
    assert (row["fingerprint"], row["metric.union"]) == (EXPERIMENT.fingerprint, 0.45)
    assert runs_of_other_protocols([other]).empty
    assert runs_of_other_protocols(experiments()[1:]).empty  # other seeds


def test_a_search_goes_through_all_pages(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.PAGE", 2)
    for number, experiment in enumerate(experiments()[:5]):
        train_and_evaluate(write_results(store / str(number), experiment), experiment)
    assert sorted(finished_runs(experiments())["seed"]) == [0, 1, 2, 3, 4]


def test_a_run_is_read_with_its_files(store: Path) -> None:
    train_and_evaluate(write_results(store / "results"))
    found = read_run(only_run().info.run_id)
    assert (found.status, found.tags["method"], found.metrics["test/union"]) == ("FINISHED", "nt", 0.45)
    assert abs(pd.Timestamp(found.ended).timestamp() - time.time()) < 60
    (store / "copy").mkdir()
    download(found.run_id, ["model.safetensors"], store / "copy")
    assert (store / "copy/model.safetensors").read_bytes() == b"weights"
    with pytest.raises(PipelineError, match=r"MLflow at sqlite.* failed"):
        download(found.run_id, ["nothing.json"], store / "copy")
    with pytest.raises(RequestError, match="has no run '0123'"):
        read_run("0123")


def test_a_run_of_others_is_refused(store: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri())
    run = client.create_run(client.create_experiment("of others")).info.run_id
    with pytest.raises(RequestError, match=rf"run {run} .* is not one of this project: it has no tag 'suite'"):
        read_run(run)


def test_a_model_that_loads_as_another_one_is_not_registered(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pytorch
    import torch
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    train_and_evaluate(write_results(store / "results"))
    before, run, client = mlflow.get_tracking_uri(), only_run().info.run_id, MlflowClient(tracking_uri())
    model, example = torch.nn.Flatten(), torch.rand(2, 1, 2, 2).numpy()
    other = torch.nn.Sequential(model, torch.nn.Linear(4, 4))
    monkeypatch.setattr(mlflow.pytorch, "load_model", lambda uri: other)
    try:
        with pytest.raises(PipelineError, match=r"differs from the weights .* it was taken off the registry"):
            register_model(run, model, example, "small-nt", "seed-0", {})
        assert client.search_model_versions("name = 'small-nt'") == []
        with pytest.raises(MlflowException, match="alias"):
            client.get_model_version_by_alias("small-nt", "seed-0")
        monkeypatch.undo()
        monkeypatch.chdir(store)
        registered = register_model(run, model, example, "small-nt", "seed-0", {})
        assert str(client.get_model_version_by_alias("small-nt", "seed-0").version) == registered.version
    finally:
        mlflow.set_tracking_uri(before)


def test_an_empty_store_gives_an_empty_frame(store: Path) -> None:
    frame = finished_runs(experiments())
    assert frame.empty
    assert {"fingerprint", "evaluation_fingerprint", "run_id", "end_time"} <= set(frame.columns)


def test_a_store_that_does_not_exist_is_not_made_by_reading(store: Path) -> None:
    (store / "mlflow.db").unlink()
    with pytest.raises(PipelineError, match=rf"no MLflow store at sqlite:///{store}/mlflow.db\. .*MLFLOW_TRACKING_URI"):
        finished_runs(experiments())
    with pytest.raises(PipelineError, match="there is no MLflow store"):
        read_run("0" * 32)
    with pytest.raises(PipelineError, match="there is no MLflow store"):
        download("0" * 32, ["summary.json"], store)
    assert list(store.iterdir()) == []


def test_a_file_that_is_no_database_is_found_at_once(store: Path) -> None:
    (store / "mlflow.db").write_text("not a database, and long enough to be sure of it\n" * 100)
    started = time.monotonic()
    with pytest.raises(PipelineError, match=r"file is not a database.*Check the file .*mlflow\.db"):
        finished_runs(experiments())
    assert time.monotonic() - started < 5


def test_a_deleted_experiment_says_how_to_bring_it_back(store: Path) -> None:
    from mlflow import MlflowClient

    with track(EXPERIMENT, DATA):
        pass
    MlflowClient(tracking_uri()).delete_experiment(only_run().info.experiment_id)
    with pytest.raises(PipelineError, match="mlflow experiments restore --experiment-id"), track(EXPERIMENT, DATA):
        pass


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_not_there_is_reported_soon_and_without_the_password(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:s3cr3t@{address}/runs")
    started = time.monotonic()
    with pytest.raises(PipelineError) as failure:
        finished_runs(experiments())
    assert time.monotonic() - started < 10
    assert f"{scheme}://me:***@{address}/runs is out of reach" in str(failure.value)
    assert "MLFLOW_TRACKING_URI" in str(failure.value)
    assert "s3cr3t" not in str(failure.value)


def test_a_server_that_never_answers_is_given_up(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_port}")
    started = time.monotonic()
    with pytest.raises(PipelineError, match="out of reach"), track(EXPERIMENT, DATA):
        pass
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("uri", ["./mlruns", "file:mlruns", "http://host:port"])
def test_a_folder_or_a_bad_address_is_a_wrong_request(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(RequestError, match="MLFLOW_TRACKING_URI"), track(EXPERIMENT, DATA):
        pass


def test_the_uri_is_that_of_the_environment_or_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/runs.db")
    assert tracking_uri() == "sqlite:////elsewhere/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri() == "http://host:5000"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://me:pass@host:5000/x", "http://me:***@host:5000/x"),
        ("API request to http://me:p@ss/word@host failed", "API request to http://me:***@host failed"),
        ("http://host:5000/x", "http://host:5000/x"),
    ],
)
def test_passwords_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """A real `mlflow server` with its own store and artifacts."""
    shutil.copy(empty_store, tmp_path / "server.db")
    uri = f"http://127.0.0.1:{free_port()}"
    options = {
        "--host": "127.0.0.1",
        "--port": uri.rpartition(":")[2],
        "--workers": "1",
        "--backend-store-uri": f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination": f"{tmp_path}/server-artifacts",
    }
    command = [sys.executable, "-m", "mlflow", "server", *(part for option in options.items() for part in option)]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
    try:
        wait_until_it_answers(process, int(options["--port"]), tmp_path / "server.log")
        yield uri
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_a_server_decides_where_artifacts_go(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    results = write_results(tmp_path / "results")
    train_and_evaluate(results)
    assert len(finished_runs([EXPERIMENT])) == 1
    assert not ensure_logged(EXPERIMENT, results)
    assert "model.safetensors" in artifacts(only_run())
    assert list((tmp_path / "server-artifacts").rglob("model.safetensors"))
    assert list(workplace.iterdir()) == []


def test_histories_and_class_accuracies_of_many_runs_are_read_at_once(store: Path) -> None:
    planned = experiments()[:3]
    for number, experiment in enumerate(planned):
        folder = write_results(store / f"results-{number}", experiment)
        (folder / "evaluate" / "classes.csv").write_text(
            f"attack,label,images,accuracy,low,high\nnatural,0,10,0.{number},0,1\n"
        )
        train_and_evaluate(folder, experiment)
    runs = finished_runs(planned)["run_id"].tolist()
    histories, classes = read_histories(runs), read_class_accuracies(runs)
    assert list(histories) == list(classes) == runs
    assert histories[runs[2]]["loss/linf"].tolist() == [2.0, 1.0, 2.0 / 3]
    assert [classes[run]["accuracy"].item() for run in runs] == [0.0, 0.1, 0.2]
    next(iter((store / "mlartifacts").rglob(f"{runs[0]}/artifacts/classes.csv"))).unlink()
    assert list(read_class_accuracies(runs)) == runs[1:]
    next(iter((store / "mlartifacts").rglob(f"{runs[1]}/artifacts/history.json"))).write_text("[{")
    with pytest.raises(PipelineError, match=rf"MLflow run {runs[1]}: its artifact history\.json is damaged"):
        read_histories(runs)
    assert read_histories([]) == {}
