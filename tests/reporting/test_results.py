"""Which runs fill which cells."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import binomtest

from pipeline.config import Params, parse_params
from pipeline.core.errors import PipelineError
from pipeline.provenance.code import digest_of
from pipeline.reporting.results import (
    MASKING,
    OTHER_ATTACKS,
    REGENERATED,
    awaits_corrupted_images,
    beside_paper,
    collect,
    fill,
)
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
    assert (found["missing"], found["command"], found["notes"]) == (False, "", ())


def test_signs_of_masking_are_noted_at_autoattack(params: Params, runs: pd.DataFrame) -> None:
    suspected = runs.assign(gradient_masking=["no sign", "no sign", "suspected"])
    results = fill(params, params.tables["main"], suspected)
    assert cell(results, "at", "aa_linf")["notes"] == ("64 of 360 test images.", MASKING)
    assert cell(results, "nt", "aa_linf")["notes"] == ("64 of 360 test images.",)
    assert cell(results, "at", "union")["notes"] == ("64 of 360 test images.", MASKING)  # aa_linf is in it
    assert MASKING not in cell(results, "at", "pgd_l2")["notes"]
    assert cell(results, "at", "natural")["notes"] == ()


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
    note = (
        "Runs of nt with seed 1 differ: 50 in `0000-nt-`, 98 in `0001-nt-`. The one that finished last is used, "
        "`0001-nt-`."
    )
    assert cell(results, "nt", "natural")["notes"] == (note,)
    assert cell(results, "nt", "union")["notes"] == ("64 of 360 test images.",)


def test_methods_with_equal_settings_share_a_run(raw: dict[str, Any], run_row: RunRow) -> None:
    raw["methods"]["alias"] = {**raw["methods"]["nt"], "label": "the same"}
    raw["tables"]["main"]["rows"].append("alias")
    params = parse_params(raw)
    row = run_row(params.experiment("nt", 0), natural=0.75)
    results = fill(params, params.tables["main"], pd.DataFrame([row, row]))
    assert cell(results, "alias", "natural")["mean"] == cell(results, "nt", "natural")["mean"] == 75.0


def test_numbers_come_from_the_store(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    experiment = params.experiment("at", 1)
    folder = tmp_path / "evaluate"
    folder.mkdir()
    (folder / "verdicts.parquet").write_bytes(b"verdicts")
    (folder / "metrics.json").write_text(
        f'{{"evaluation_fingerprint": "{experiment.evaluation_fingerprint}",'
        f' "evaluation_code": "{digest_of("evaluate", experiment)}",'
        ' "metrics": {"natural": 0.875}, "counts": {"natural": 360}, "intervals": {"natural": [0.8, 0.9]}}'
    )
    (folder / "classes.csv").write_text("attack,label,images,accuracy,low,high\n")
    (folder / "trust.json").write_text('{"suspicious": false, "signs": []}')
    (folder / "evaluation_code.json").write_text("{}")
    with track(experiment, DataDescription("digits", "0" * 64, {"test": 360})) as run:
        run.log_evaluation(folder)
    shutil.rmtree(folder)  # tables are made from MLflow alone
    assert len(finished_runs(params.experiments())) == 1
    found = cell(collect(params)["main"], "at", "natural")
    assert (found["mean"], found["seeds"], found["images"]) == (87.5, 1, 360)
    assert found["command"] == "dvc repro evaluate@at-0"


def test_a_store_without_runs_of_the_suite_is_refused(
    params: Params, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "empty.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(PipelineError, match=r"no finished run of suite 'small' .* nothing was written. 'make repro'"):
        collect(params)


def test_another_protocol_fills_a_cell_on_request_alone_and_is_named(
    raw: dict[str, Any], runs: pd.DataFrame, run_row: RunRow
) -> None:
    raw["tables"]["main"]["other_protocols"] = True
    params = parse_params(raw)
    other = run_row(params.experiment("slow_at", 0), natural=0.7) | {"protocol": "paper"}
    others = pd.DataFrame([other, run_row(params.experiment("nt", 0), natural=0.1) | {"protocol": "paper"}])
    found = cell(fill(params, params.tables["main"], runs, others), "slow_at", "natural")
    assert (found["mean"], found["command"]) == (pytest.approx(70.0), "dvc repro evaluate@slow_at-1")
    assert found["notes"] == ("From a run of protocol paper, not reference code.",)
    assert cell(fill(params, params.tables["main"], runs, others), "nt", "natural")["mean"] == pytest.approx(99.0)
    raw["tables"]["main"]["other_protocols"] = False
    params = parse_params(raw)
    assert cell(fill(params, params.tables["main"], runs, others), "slow_at", "natural")["missing"]


def test_a_run_of_another_protocol_that_was_attacked_otherwise_says_so(
    raw: dict[str, Any], runs: pd.DataFrame, run_row: RunRow
) -> None:
    raw["tables"]["main"]["other_protocols"] = True
    params = parse_params(raw)
    row = run_row(params.experiment("slow_at", 0), natural=0.7, aa_linf=0.5, union=0.4) | {"protocol": "paper"}
    for same in (True, False):
        others = pd.DataFrame([{**row, "same_attacks": same}])
        results = fill(params, params.tables["main"], runs.assign(same_attacks=True), others)
        for metric in ("aa_linf", "union"):
            assert (OTHER_ATTACKS in cell(results, "slow_at", metric)["notes"]) is not same
        assert OTHER_ATTACKS not in cell(results, "slow_at", "natural")["notes"]
        assert OTHER_ATTACKS not in cell(results, "at", "aa_linf")["notes"]


@pytest.mark.parametrize(
    ("metrics", "measured", "expected"),
    [
        (["natural", "ood_c", "ood_p"], ["natural"], True),
        (["ood_c"], [], True),
        (["natural", "ood_c", "ood_p"], ["ood_p"], False),
        (["natural", "aa_linf", "ood_c"], ["natural"], False),
        (["natural"], [], False),
    ],
)
def test_a_table_about_corrupted_images_alone_waits_for_them(
    raw: dict[str, Any], run_row: RunRow, metrics: list[str], measured: list[str], expected: bool
) -> None:
    columns = [{"metric": metric, "label": metric} for metric in metrics]
    raw["tables"] = {"main": {"caption": "Corruptions", "rows": ["nt", "at"], "columns": columns}}
    params = parse_params(raw)
    runs = pd.DataFrame([run_row(params.experiment("nt", 0), **dict.fromkeys(measured, 0.5))])
    assert awaits_corrupted_images(fill(params, params.tables["main"], runs)) is expected


def test_wilson_intervals_are_those_of_the_images(raw: dict[str, Any], run_row: RunRow) -> None:
    raw["tables"]["main"]["uncertainty"] = "wilson"
    params = parse_params(raw)
    runs = pd.DataFrame([run_row(params.experiment("at", 0), aa_linf=26 / 64, training_seconds=4.0)])
    found = cell(fill(params, params.tables["main"], runs), "at", "aa_linf")
    expected = binomtest(26, 64).proportion_ci(method="wilson")
    assert (found["low"], found["high"]) == (pytest.approx(100 * expected.low), pytest.approx(100 * expected.high))
    missing = cell(fill(params, params.tables["main"], runs), "at", "natural")
    assert math.isnan(missing["low"]) and math.isnan(missing["high"])


def test_regenerated_images_are_noted(raw: dict[str, Any], run_row: RunRow) -> None:
    column = {"metric": "ood_p", "label": "P"}
    raw["tables"] = {"main": {"caption": "Sequences", "rows": ["nt", "at"], "columns": [column]}}
    params = parse_params(raw)
    rows = [
        run_row(params.experiment("nt", 0), ood_p=0.5) | {"ood_provenance": "perturbations regenerated"},
        run_row(params.experiment("at", 0), ood_p=0.5) | {"ood_provenance": "perturbations official"},
    ]
    results = fill(params, params.tables["main"], pd.DataFrame(rows))
    assert REGENERATED in cell(results, "nt", "ood_p")["notes"]
    assert REGENERATED not in cell(results, "at", "ood_p")["notes"]
    assert cell(results, "nt", "ood_p")["command"] == "dvc repro ood@nt-1"


def cifar10(raw: dict[str, Any], **table: Any) -> Params:
    """The small suite on the papers' data and network."""
    raw["data"] = {"name": "cifar10", "held_out_images": 1000}
    raw["model"]["architecture"] = "resnet18"
    raw["tables"] = {"main": {**raw["tables"]["main"], "rows": ["nt", "at"], **table}}
    return parse_params(raw)


def test_the_difference_is_reproduced_minus_printed(raw: dict[str, Any], run_row: RunRow) -> None:
    params = cifar10(raw, paper=["I"])
    runs = pd.DataFrame([run_row(params.experiment("at", seed), natural=0.85, union=0.5) for seed in (0, 1)])
    beside = beside_paper(params, params.tables["main"], fill(params, params.tables["main"], runs))
    assert beside is not None
    # NT has no row in Table I, and the small suite's PGD has another name there.
    assert list(zip(beside["method"], beside["metric"], strict=True)) == [
        ("at", "natural"),
        ("at", "aa_linf"),
        ("at", "union"),
    ]
    assert list(beside["paper"]) == [84.32, 44.37, 50.68]
    assert list(beside["difference"])[::2] == [pytest.approx(0.68), pytest.approx(-0.68)]
    assert math.isnan(beside["difference"].iloc[1]) and beside["missing"].iloc[1]


def test_the_first_table_that_is_named_counts(raw: dict[str, Any], run_row: RunRow) -> None:
    raw["methods"]["at_nt_linf"] = raw["methods"]["at"]
    numbers = []
    for tables in (["I", "1a"], ["1a", "I"]):
        params = cifar10(raw, paper=tables, rows=["at_nt_linf"])
        runs = pd.DataFrame([run_row(params.experiment("at_nt_linf", 0), natural=0.9)])
        beside = beside_paper(params, params.tables["main"], fill(params, params.tables["main"], runs))
        assert beside is not None
        numbers.append(beside.set_index("metric")["paper"]["natural"])
    assert numbers == [87.34, 87.84]


def test_other_data_or_networks_have_nothing_to_stand_beside(
    raw: dict[str, Any], params: Params, runs: pd.DataFrame
) -> None:
    results = fill(params, params.tables["main"], runs)
    table = params.tables["main"].model_copy(update={"paper": ["I", "II", "III"]})
    assert beside_paper(params, table, results) is None  # digits
    raw["model"]["architecture"] = "small_cnn"
    raw["data"] = {"name": "cifar10", "held_out_images": 1000}
    params = parse_params(raw)
    assert beside_paper(params, table, fill(params, params.tables["main"], runs)) is None


def test_a_printed_union_that_is_no_mean_is_noted(raw: dict[str, Any], run_row: RunRow) -> None:
    raw["methods"]["generalist_d_linf_l2"] = raw["methods"]["at"]
    params = cifar10(raw, paper=["II"], rows=["generalist_d_linf_l2"])
    params = params.model_copy(update={"data": params.data.model_copy(update={"name": "cifar100"})})
    runs = pd.DataFrame([run_row(params.experiment("generalist_d_linf_l2", 0), union=0.34)])
    beside = beside_paper(params, params.tables["main"], fill(params, params.tables["main"], runs))
    assert beside is not None
    assert beside.set_index("metric")["notes"]["union"][-1] == (
        "Table II of Generalist++ prints 33.84 where its own AutoAttack columns have the mean 31.24."
    )
