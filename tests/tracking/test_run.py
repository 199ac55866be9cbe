"""Runs while they are worked on, in real sqlite stores, one real server, and real processes."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import sqlite3
from pathlib import Path

import pytest

from pipeline.config import Experiment, load_params
from pipeline.core.errors import Interrupted, PipelineError
from pipeline.tracking import (
    awaits_delivery,
    deliver_left,
    ensure_logged,
    ensure_ood_logged,
    finished_runs,
    log_stability,
    read_experiment,
    read_run,
    track,
)
from pipeline.tracking.spool import spool_of
from tests.tracking.results import (
    DATA,
    EXPERIMENT,
    all_runs,
    artifacts,
    curve,
    eventually,
    experiments,
    only_run,
    record,
    train_and_evaluate,
    write_ood,
    write_results,
)


def test_a_run_says_what_it_is_and_holds_what_was_measured(store: Path) -> None:
    train_and_evaluate(write_results(store / "results"))

    run = only_run()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "nt-0"
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
    assert not [name for name in run.data.metrics if name.startswith(("test_", "summary"))], "charts of one bar"
    assert read_run(run.info.run_id).metrics["test_images/pgd_l2"] == 64
    assert run.data.tags["gradient_masking"] == "suspected"
    assert read_run(run.info.run_id).metrics["summary/selected_epoch"] == 2
    assert curve("loss/linf") == [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]
    trained = {
        "code.json",
        "curves.png",
        "evaluation_code.json",
        "experiment.json",
        "history.json",
        "model.safetensors",
        "params.yaml",
        "summary.json",
    }
    assert artifacts(run) == trained | {"verdicts.parquet", "metrics.json", "classes.csv", "trust.json"}
    assert run.info.artifact_uri.startswith((store / "mlartifacts" / "small").as_uri())
    assert not (store / "mlruns").exists()
    settings = next((store / "mlartifacts").rglob("experiment.json"))
    assert json.loads(settings.read_text()) == EXPERIMENT.model_dump(mode="json")
    alone = load_params(settings.with_name("params.yaml")).experiment(EXPERIMENT.name, EXPERIMENT.seed)
    assert alone.evaluation_fingerprint == EXPERIMENT.evaluation_fingerprint
    assert alone.fingerprint == EXPERIMENT.fingerprint


def test_parameters_are_what_the_fingerprint_covers_and_cuts_are_visible(store: Path) -> None:
    with track(EXPERIMENT, DATA):
        pass
    params = only_run().data.params
    assert params["training.epochs"] == "3"
    assert params["learners.natural.optimizer.name"] == "sgd"
    assert params["mixture"] == "null"
    assert not any("label" in key for key in params)
    assert len(str(EXPERIMENT.method.learners["natural"].schedule.epochs)) > 6000, "which MLflow would refuse"
    breakpoints = params["learners.natural.schedule.epochs"]
    assert len(breakpoints) == 500
    assert breakpoints.startswith("[0.0, 0.0025,")
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
        eventually(lambda: [run.info.status for run in all_runs()] == ["RUNNING"])
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


def test_a_store_that_breaks_meanwhile_does_not_hide_what_stopped_the_run(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted, match="stop"), track(EXPERIMENT, DATA) as run:
        eventually(lambda: len(spool_of(EXPERIMENT)) == 0)
        with sqlite3.connect(store / "mlflow.db") as connection:
            connection.execute("DROP TABLE metrics")
            connection.execute("DROP TABLE runs")
        run.log_epoch(record(1))
        raise Interrupted("stop")
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: nt-0: "))
    assert "no such table" in warning and "The work goes on; what it logs waits in runs/" in warning
    assert len(spool_of(EXPERIMENT)) == 2, "the epoch, and how the run ended"


def test_system_metrics_are_sampled_while_a_run_is_open(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with track(EXPERIMENT, DATA):
        eventually(lambda: bool(all_runs() and curve("system/cpu_utilization_percentage")))


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


def test_other_weights_or_settings_take_what_a_run_was_compared_with_off_it(store: Path) -> None:
    folder = write_results(store / "results")
    train_and_evaluate(folder)
    assert "stability.weight_distance" not in finished_runs([EXPERIMENT])
    log_stability(EXPERIMENT, {"weight_distance": 0.5, "natural/error_probability_max": 0.25})
    found = finished_runs([EXPERIMENT])
    assert (found["stability.weight_distance"].item(), found["stability.natural/error_probability_max"].item()) == (
        0.5,
        0.25,
    )
    with pytest.raises(PipelineError, match="bound = nan"):
        log_stability(EXPERIMENT, {"bound": math.nan})
    train_and_evaluate(write_results(folder, weights="two"))
    assert "stability.weight_distance" not in finished_runs([EXPERIMENT])


def test_of_an_evaluation_that_lacks_a_file_nothing_is_logged(store: Path) -> None:
    folder = write_results(store / "results")
    train_and_evaluate(folder)
    again = write_results(store / "again", experiments(epsilon=0.2)[0])
    (again / "evaluate" / "classes.csv").unlink()
    with pytest.raises(FileNotFoundError), track(experiments(epsilon=0.2)[0], DATA) as run:
        run.log_evaluation(again / "evaluate")
    assert finished_runs(experiments(epsilon=0.2)).empty
    assert len(finished_runs([EXPERIMENT])) == 1 and not ensure_logged(EXPERIMENT, folder)


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


def test_a_record_of_another_version_is_named_and_waits(store: Path) -> None:
    spool_of(EXPERIMENT).append({"run": {"suite": "small"}, "calls": [{"call": "ended"}]})
    assert not awaits_delivery(EXPERIMENT)
    report = deliver_left()
    assert (report.delivered, report.waiting) == (0, 1)
    assert re.search(
        r"tracking/00000001\.json: another version of this project has left this record", report.describe()
    )


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
    left = {path.name for path in workplace.rglob("*") if path.is_file()}
    assert left <= {"append.lock", "delivery.lock"}
