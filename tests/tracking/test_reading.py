"""What is read from finished runs."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.values import AttackBudget
from pipeline.tracking import (
    download,
    finished_runs,
    read_class_accuracies,
    read_histories,
    read_run,
    runs_of_other_protocols,
    track,
    tracking_uri,
)
from tests.tracking.results import (
    COUNTS,
    DATA,
    EXPERIMENT,
    METRICS,
    all_runs,
    experiments,
    only_run,
    train_and_evaluate,
    write_results,
)


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
    monkeypatch.setattr("pipeline.tracking.store.PAGE", 2)
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
    with pytest.raises(PipelineError, match=r"has no nothing\.json in MLflow"):
        download(found.run_id, ["nothing.json"], store / "copy")
    with pytest.raises(RequestError, match="has no run '0123'"):
        read_run("0123")


def test_a_run_of_others_is_refused(store: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri())
    run = client.create_run(client.create_experiment("of others")).info.run_id
    with pytest.raises(RequestError, match=rf"run {run} .* is not one of this project: it has no tag 'suite'"):
        read_run(run)


def test_an_empty_store_gives_an_empty_frame(store: Path) -> None:
    frame = finished_runs(experiments())
    assert frame.empty
    assert {"fingerprint", "evaluation_fingerprint", "run_id", "end_time"} <= set(frame.columns)


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
