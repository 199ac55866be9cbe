"""Which runs fill which cells."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.config import Params, parse_params
from pipeline.reporting.results import collect, fill
from pipeline.tracking import DataDescription, finished_runs, track

RunRow = Callable[..., dict[str, Any]]


def cell(results: pd.DataFrame, method: str, metric: str) -> dict[str, Any]:
    (row,) = results[(results["method"] == method) & (results["metric"] == metric)].to_dict("records")
    return {str(key): value for key, value in row.items()}


def test_a_cell_is_the_mean_over_seeds_in_percent(params: Params, runs: pd.DataFrame) -> None:
    found = cell(fill(params, params.tables["main"], runs), "nt", "natural")
    assert found["mean"] == pytest.approx(99.0)
    assert found["std"] == pytest.approx(math.sqrt(2))
    assert (found["seeds"], found["seeds_expected"], found["images"]) == (2, 2, 360)
    assert (found["missing"], found["command"], found["note"]) == (False, "", "")


def test_signs_of_masking_are_noted_at_autoattack(params: Params, runs: pd.DataFrame) -> None:
    suspected = runs.assign(gradient_masking=["no sign", "no sign", "suspected"])
    results = fill(params, params.tables["main"], suspected)
    assert "signs of gradient masking" in cell(results, "at", "aa_linf")["note"]
    assert cell(results, "at", "natural")["note"] == cell(results, "nt", "aa_linf")["note"] == ""


def test_a_time_is_a_ratio_to_the_reference_of_the_same_seed(
    raw: dict[str, Any], params: Params, run_row: RunRow
) -> None:
    column = {"metric": "training_seconds", "label": "Time", "relative_to": "at"}
    raw["tables"]["time"] = {"caption": "Time", "rows": ["nt", "at", "slow_at"], "columns": [column]}
    seconds = {("nt", 0): 2.0, ("nt", 1): 3.0, ("at", 0): 8.0, ("at", 1): 4.0, ("slow_at", 0): 16.0}
    rows = [run_row(params.experiment(*key), training_seconds=value) for key, value in seconds.items()]
    raw_params, runs = parse_params(raw), pd.DataFrame(rows)
    results = fill(raw_params, raw_params.tables["time"], runs)
    assert [cell(results, method, "training_seconds")["mean"] for method in ("nt", "at", "slow_at")] == [0.5, 1.0, 2.0]
    assert cell(results, "slow_at", "training_seconds")["command"] == "dvc repro evaluate@slow_at-1"
    without_at = fill(raw_params, raw_params.tables["time"], runs[runs["metric.training_seconds"] < 4])
    assert cell(without_at, "nt", "training_seconds")["command"] == "dvc repro evaluate@at-0 evaluate@at-1"
    column.pop("relative_to")
    raw_params = parse_params(raw)
    assert cell(fill(raw_params, raw_params.tables["time"], runs), "nt", "training_seconds")["mean"] == 2.5


def test_rows_come_in_the_order_of_the_table(params: Params, runs: pd.DataFrame) -> None:
    results = fill(params, params.tables["main"], runs)
    metrics = ["natural", "aa_linf", "pgd_l2", "union"]
    expected = [(method, metric) for method in ("nt", "at", "slow_at") for metric in metrics]
    assert list(zip(results["method"], results["metric"], strict=True)) == expected


def test_a_seed_that_is_missing_is_counted_and_has_a_command(params: Params, runs: pd.DataFrame) -> None:
    found = cell(fill(params, params.tables["main"], runs), "at", "aa_linf")
    assert found["mean"] == pytest.approx(41.25)
    assert math.isnan(found["std"])
    assert (found["seeds"], found["seeds_expected"], found["missing"]) == (1, 2, False)
    assert found["command"] == "dvc repro evaluate@at-1"


def test_a_cell_without_any_seed_is_missing(params: Params, runs: pd.DataFrame) -> None:
    found = cell(fill(params, params.tables["main"], runs), "slow_at", "union")
    assert math.isnan(found["mean"])
    assert pd.isna(found["images"])
    assert (found["seeds"], found["missing"]) == (0, True)
    assert found["command"] == "dvc repro evaluate@slow_at-0 evaluate@slow_at-1"


def test_a_metric_that_a_run_does_not_have_is_missing(params: Params, runs: pd.DataFrame) -> None:
    assert cell(fill(params, params.tables["one_column"], runs), "at", "worst_case_union")["missing"]


def test_no_runs_at_all_leave_every_cell_missing(params: Params, runs: pd.DataFrame) -> None:
    assert fill(params, params.tables["main"], runs.iloc[:0])["missing"].all()


@pytest.mark.parametrize("changed", ["fingerprint", "evaluation_fingerprint"])
def test_runs_of_other_settings_fill_nothing(params: Params, runs: pd.DataFrame, changed: str) -> None:
    assert fill(params, params.tables["main"], runs.assign(**{changed: "of other settings"}))["missing"].all()


def test_the_later_of_two_runs_counts_and_a_difference_is_noted(
    params: Params, runs: pd.DataFrame, run_row: RunRow
) -> None:
    earlier = run_row(params.experiment("nt", 1), finished=0, natural=0.5, aa_linf=0.0, pgd_l2=0.1, union=0.05)
    results = fill(params, params.tables["main"], pd.concat([runs, pd.DataFrame([earlier])], ignore_index=True))
    assert cell(results, "nt", "natural")["mean"] == pytest.approx(99.0)
    note = "Runs of nt with seed 1 differ; the one that finished last is used."
    assert cell(results, "nt", "natural")["note"] == note
    assert cell(results, "nt", "union")["note"] == ""


def test_methods_with_equal_settings_share_a_run(raw: dict[str, Any], run_row: RunRow) -> None:
    raw["methods"]["alias"] = {**raw["methods"]["nt"], "label": "the same"}
    raw["tables"]["main"]["rows"].append("alias")
    params = parse_params(raw)
    row = run_row(params.experiment("nt", 0), natural=0.75)
    results = fill(params, params.tables["main"], pd.DataFrame([row, row]))
    assert cell(results, "alias", "natural")["mean"] == cell(results, "nt", "natural")["mean"] == 75.0


def test_numbers_come_from_the_store(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    experiment = params.experiment("at", 1)
    folder = tmp_path / "evaluate"
    folder.mkdir()
    (folder / "verdicts.parquet").write_bytes(b"verdicts")
    (folder / "metrics.json").write_text(
        f'{{"evaluation_fingerprint": "{experiment.evaluation_fingerprint}",'
        ' "metrics": {"natural": 0.875}, "counts": {"natural": 360}, "intervals": {"natural": [0.8, 0.9]}}'
    )
    (folder / "classes.csv").write_text("attack,label,images,accuracy,low,high\n")
    (folder / "trust.json").write_text('{"suspicious": false, "signs": []}')
    with track(experiment, DataDescription("digits", "0" * 64, {"test": 360})) as run:
        run.log_evaluation(folder)
    shutil.rmtree(folder)  # tables are made from MLflow alone
    assert len(finished_runs(params.experiments())) == 1
    found = cell(collect(params, params.tables["main"]), "at", "natural")
    assert (found["mean"], found["seeds"], found["images"]) == (87.5, 1, 360)
    assert found["command"] == "dvc repro evaluate@at-0"
