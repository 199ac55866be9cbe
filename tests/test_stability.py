"""Pairs of real trainings that differ in one image, compared from MLflow by the stage, and drawn."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config import FigureSource, Params, load_params, parse_params
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import read_record
from pipeline.experiments.evaluate import evaluate_experiment
from pipeline.experiments.train import train_experiment
from pipeline.reporting.figures.stability import StabilityFigure
from pipeline.reporting.style import style
from pipeline.studies.cells import cells
from pipeline.tracking import finished_runs
from stages.stability import main
from tests.conftest import composed, keep
from tests.reporting.overlaps import check_layout

METHODS = ["at", "generalist_d_nt_linf"]
ATTACKS = ["natural", "pgd20_linf", "every_label"]
TRAINED = [("at", "none"), ("at", "example 0"), (METHODS[1], "none"), (METHODS[1], "example 0")]
"""Of two positions one is not trained."""
FILES = [Path("reports/digits/small_cnn/stability.csv"), Path("reports/digits/small_cnn/stability.json")]


def small(content: dict[str, Any]) -> dict[str, Any]:
    """Two methods, a study of pairs beside another one, a short evaluation, a figure."""
    made = deepcopy(content)
    made["training"] |= {"device": "cpu", "epochs": 4}
    interval = made["ablation"]["studies"]["communication_interval_to_15"]
    keep(made, METHODS, ["pgd20_linf", "noise_linf"])
    pairs = {"label": "replaced image", "methods": METHODS, "varies": "replaced_example", "values": [0, 47]}
    made["ablation"]["studies"] = {"stability": pairs, "interval": interval}
    made["figures"] = {"stability": {"kind": "stability", "caption": "Stability", "study": "stability"}}
    return made


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, tiny_content: dict[str, Any], prepared_digits: Path, empty_store: Path
) -> Iterator[Path]:
    """The current folder of this module's tests: three trainings of four pairs' experiments are missing."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "params.yaml").write_text(yaml.safe_dump(small(tiny_content), sort_keys=False))
    shutil.copytree(prepared_digits, folder / "data/prepared/digits")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture(scope="module")
def params(place: Path) -> Params:
    return load_params(place / "params.yaml")


def test_before_anything_is_trained_the_way_out_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == PipelineError.exit_code
    printed = capsys.readouterr()
    assert "has no pair of finished runs that differ in one example" in printed.err
    assert "'make ablation' trains them" in printed.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["interval"], "'interval' is no study that varies replaced_example: Valid: stability"),
        (["stabilty"], "did you mean 'stability'?"),
    ],
)
def test_other_studies_are_refused(
    place: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


def test_a_file_without_such_a_study_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((place / "params.yaml").read_text())
    content["ablation"]["studies"].pop("stability")
    content["figures"] = {}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert main(["--params", str(tmp_path / "params.yaml")]) == 2
    assert "no study of params.yaml varies replaced_example; docs/stability.md" in capsys.readouterr().err


@pytest.fixture(scope="module")
def compared(place: Path, params: Params) -> pd.DataFrame:
    """The rows, after four trainings and the stage."""
    for cell in cells(params, ["stability"]):
        if (cell.method, cell.setting) in TRAINED:
            train_experiment(cell.experiment, lambda: None)
            evaluate_experiment(cell.experiment)
    assert main([]) == 0
    return pd.read_csv(FILES[0])


def labelled(frame: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by method and attack."""
    rows = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    return {(row["method"], row["attack"]): row for row in rows}


def test_every_trained_pair_has_its_numbers(compared: pd.DataFrame, params: Params) -> None:
    assert list(zip(compared["method"], compared["attack"], strict=True)) == [
        (method, attack) for method in METHODS for attack in ATTACKS
    ]
    assert set(compared["replaced_example"]) == {0} and set(compared["training_images"]) == {48}
    assert (compared["error_probability_max"] > 0).all() and (compared["error_probability_max"] <= 1).all()
    for part in ("max", "mean"):
        assert (compared[f"error_probability_{part}"] <= compared[f"cross_entropy_{part}"]).all()
    assert (compared["weight_distance"] > 0).all() and (compared["weight_distance_bound"] > 0).all()
    rows = labelled(compared)
    for method in METHODS:
        natural, every = rows[method, "natural"], rows[method, "every_label"]
        assert every["cross_entropy_max"] >= natural["cross_entropy_max"]
        assert natural["bound"] == pytest.approx(natural["gradient_norm"] * natural["weight_distance_bound"])
        assert math.isnan(every["bound"]) and math.isnan(every["error_probability_gap"])


def test_the_details_say_where_each_number_is_from(compared: pd.DataFrame, params: Params) -> None:
    details = read_record(FILES[1])
    by_method = {pair["method"]: pair for pair in details["pairs"]}
    for cell in cells(params, ["stability"]):
        if (cell.method, cell.setting) not in TRAINED:
            continue
        role = "original" if cell.setting == "none" else "replaced"
        found = by_method[cell.method][role]
        summary = json.loads(
            (Path("results/ablation/digits") / cell.experiment.identifier / "train/summary.json").read_text()
        )
        assert found["fingerprint"] == cell.experiment.fingerprint
        assert (found["weights_sha256"], found["epoch"]) == (summary["weights_sha256"], summary["selected_epoch"])


def test_the_numbers_are_on_the_runs_of_the_replaced_examples(compared: pd.DataFrame, params: Params) -> None:
    experiments = {cell.experiment.fingerprint: cell for cell in cells(params, ["stability"])}
    runs = finished_runs(cell.experiment for cell in experiments.values())
    assert len(runs) == len(TRAINED)
    rows = labelled(compared)
    for _, run in runs.iterrows():
        cell = experiments[run["fingerprint"]]
        if cell.setting == "none":
            assert math.isnan(run["stability.natural/error_probability_max"])
            continue
        for name in ("error_probability_max", "cross_entropy_gap_replaced", "bound"):
            assert run[f"stability.pgd20_linf/{name}"] == rows[cell.method, "pgd20_linf"][name]


def test_a_second_comparison_measures_nothing_and_writes_the_same(
    compared: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [path.read_bytes() for path in FILES]
    assert main(["stability"]) == 0
    printed = capsys.readouterr().out
    assert "losses at" not in printed and "at-1 with and without training image 0" in printed
    assert "MLflow has no finished run of: at_stability_example_47-1, generalist_d_nt_linf_stability_exa" in printed
    assert [path.read_bytes() for path in FILES] == before


def test_what_was_kept_and_is_damaged_is_measured_again(
    compared: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in Path("runs").glob("*/stability/*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert main(["--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("losses at 24 test and 48 training images") == len(TRAINED)
    assert (tmp_path / FILES[0].name).read_bytes() == FILES[0].read_bytes()


def drawn(params: Params, runs: pd.DataFrame) -> Figure:
    settings = params.figures["stability"]
    assert isinstance(settings, StabilityFigure)
    with style():
        figure = settings.draw(FigureSource(params, runs, cells(params, ["stability"])))
        figure.draw_without_rendering()
        check_layout("stability", figure)
        return figure


def marks(axes: Axes, label: str) -> list[float]:
    return [float(x) for line in axes.get_lines() if line.get_gid() == label for x in np.asarray(line.get_xdata())]


def test_the_figure_has_a_mark_for_every_number(compared: pd.DataFrame, params: Params) -> None:
    figure = drawn(params, finished_runs(cell.experiment for cell in cells(params, ["stability"])))
    rows = labelled(compared)
    panels = dict(zip([(method, attack) for method in METHODS for attack in ATTACKS[:2]], figure.axes, strict=True))
    for place, axes in panels.items():
        row = rows[place]
        assert marks(axes, "largest difference") == [row["error_probability_max"]]
        assert marks(axes, "mean difference") == [row["error_probability_mean"]]
        assert marks(axes, "|generalisation gap|") == [abs(row["error_probability_gap_replaced"])]
        assert marks(axes, "bound, if losses were convex") == [row["bound"]]
        assert len(marks(axes, "missing")) == 1, "example 47 is not trained"
        assert axes.get_xscale() == "log"


def test_without_any_run_the_figure_says_so(params: Params) -> None:
    figure = drawn(params, pd.DataFrame())
    assert [len(marks(axes, "missing")) for axes in figure.axes] == [2, 2]
    assert "not measured" in figure.get_supxlabel()


def test_a_figure_of_another_study_is_refused(place: Path) -> None:
    content = yaml.safe_load((place / "params.yaml").read_text())
    content["figures"]["stability"]["study"] = "interval"
    with pytest.raises(RequestError, match="'interval' varies communication_interval"):
        parse_params(content)


def test_the_suite_beyond_the_papers_draws_a_study_of_pairs() -> None:
    params = composed("suite=digits_beyond")
    (figure,) = (figure for figure in params.figures.values() if isinstance(figure, StabilityFigure))
    replaced = {cell.experiment.data.replaced_example for cell in cells(params, [figure.study])}
    assert None in replaced and len(replaced) > 1
