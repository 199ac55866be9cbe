"""Two models image by image: of one suite or two, two seeds, a cell of the grid, weights from elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline.config import Params, load_params, parse_params
from pipeline.core.errors import RequestError
from pipeline.core.files import read_record, write_record
from pipeline.experiments.compare import UNSAID, Side, _differences, compare, named
from pipeline.experiments.evaluate import evaluate_experiment
from pipeline.experiments.foreign import ExternalModel, attack_external
from pipeline.experiments.results import load_verdicts
from pipeline.experiments.train import train_experiment
from pipeline.studies.cells import cells
from pipeline.tracking import untracked
from stages import compare as stage
from tests.conftest import keep

ATTACKS = ["pgd20_linf", "pgd20_l2"]
CELL = "generalist_d_nt_linf_communication_interval_c_3-1"


def small(content: dict[str, Any]) -> dict[str, Any]:
    """Two seeds, few methods and two attacks."""
    made = deepcopy(content)
    study = made["ablation"]["studies"]["communication_interval"] | {"values": [3], "methods": ["generalist_d_nt_linf"]}
    keep(made, ("at", "nt", "generalist_d_nt_linf"), ATTACKS)
    made["seeds"], made["ablation"]["studies"] = [1, 2], {"communication_interval": study}
    made["training"]["device"] = "cpu"
    return made


def stronger(content: dict[str, Any]) -> dict[str, Any]:
    """Another suite of the same images, whose attack of the same name is another one."""
    made = deepcopy(content)
    made["suite"], made["reports_folder"] = "other", "reports/other"
    made["evaluation"]["attacks"]["pgd20_linf"]["steps"] = 5
    return made


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, tiny_content: dict[str, Any], prepared_digits: Path
) -> Iterator[Path]:
    """The current folder: with at of two seeds, at of another suite, a cell, and weights from elsewhere."""
    folder = tmp_path_factory.mktemp("compared")
    content = small(tiny_content)
    params, other = parse_params(content), parse_params(stronger(content))
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.copytree(prepared_digits, folder / "data/prepared/digits")
    (cell,) = (one.experiment for one in cells(params, seeds=[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for experiment in (params.experiment("at", 1), params.experiment("at", 2), other.experiment("at", 1), cell):
            train_experiment(experiment, lambda: None, tracker=untracked)
            evaluate_experiment(experiment, tracker=untracked)
        weights = Path("results/digits/at-2/train/model.safetensors")
        attack_external(params, ExternalModel(weights, "small_cnn"), None, 16, Path("results/external/found"))
        yield folder


@pytest.fixture
def params(place: Path) -> Params:
    return load_params(place / "params.yaml")


def test_numbers_are_those_of_the_verdicts(params: Params) -> None:
    one, other = params.experiment("at", 1), params.experiment("at", 2)
    found = compare(one, other)
    assert list(found.accuracies.index) == ["natural", *ATTACKS] and not found.left_out
    right = [
        table[table["attack"] == "natural"].set_index("image")["correct"] for table in map(load_verdicts, (one, other))
    ]
    row = found.accuracies.loc["natural"]
    assert (row["images"], row["at-1"], row["at-2"]) == (24, right[0].mean(), right[1].mean())
    only_first, only_second = found.disputed("natural")
    assert only_first == [int(image) for image in right[0].index[right[0] & ~right[1]]]
    assert only_second == [int(image) for image in right[0].index[right[1] & ~right[0]]]
    assert (row["only at-1"], row["only at-2"]) == (len(only_first), len(only_second))
    assert len(only_first) + len(only_second) > 0
    assert found.settings.to_dict("index") == {"seed": {"at-1": "1", "at-2": "2"}}


def test_the_only_learners_of_two_baselines_are_compared_with_each_other(params: Params) -> None:
    sides = [
        Side(one.identifier, one.model_dump(mode="json", exclude=UNSAID), "", pd.DataFrame(), pd.DataFrame())
        for one in (params.experiment("at", 1), params.experiment("nt", 1))
    ]
    found = _differences(*sides)
    assert list(found.loc["method.learners.linf.objective.name"]) == ['"adversarial"', '"natural"']
    assert not [path for path in found.index if ".schedule." in path or ".natural." in path]


def test_a_cell_is_compared_by_its_name(params: Params) -> None:
    cell = named(params, CELL, None)
    found = compare(params.experiment("at", 1), cell)
    assert found.second.name == CELL
    assert list(found.settings.loc["method.mixture.communication_interval"]) == ["", "3"]
    assert list(found.settings.loc["method.mixture.rule"]) == ["", '"moving_average"']
    assert not {"name", "grid", "method.label"} & set(found.settings.index)


def test_an_attack_of_another_suite_is_compared_where_it_is_the_same(params: Params) -> None:
    found = compare(params.experiment("at", 1), named(params, "results/other/at-1", None))
    assert list(found.accuracies.index) == ["natural", "pgd20_l2"]
    assert found.left_out == {"pgd20_linf": "it is not the same attack: steps differ"}
    assert list(found.accuracies.loc["natural", ["only at-1", "only other/at-1"]]) == [0, 0]
    assert list(found.settings.loc["evaluation.attacks.pgd20_linf.steps"]) == ["20", "5"]
    with pytest.raises(RequestError, match=r"none of these attacks in common: pgd20_linf: .* steps differ"):
        compare(params.experiment("at", 1), named(params, "results/other/at-1", None), ["pgd20_linf"])


def test_weights_from_elsewhere_are_compared_on_the_images_that_both_saw(params: Params) -> None:
    found = compare(Path("results/digits/at-2"), Path("results/external/found"))
    assert found.accuracies["images"].to_list() == 3 * [16]
    assert not found.accuracies[["only digits/at-2", "only external/found"]].to_numpy().any()
    assert found.accuracies["p"].to_list() == 3 * [1]
    figure = found.curves()
    assert figure is not None and [text.get_text() for text in figure.legends[0].get_texts()] == ["digits/at-2"]
    foreign = Path("results/external/found")
    assert compare(foreign, foreign).curves() is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data_digest": "0" * 64}, "was prepared from other images"),
        ({"test_images": None}, "some drawn with split_seed 0, and all in official order"),
        ({"split_seed": 5}, "some drawn with split_seed 0, and some drawn with split_seed 5"),
    ],
    ids=["prepared", "all", "order"],
)
def test_other_images_are_refused_with_the_reason(
    params: Params, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    shutil.copytree("results/external/found", tmp_path / "external/changed")
    path = tmp_path / "external/changed/metrics.json"
    record = read_record(path)
    for key, value in change.items():
        (record if key == "data_digest" else record["settings"]["data"])[key] = value
    write_record(path, {key: record[key] for key in ("settings", "data_digest")})
    with pytest.raises(RequestError, match=r"not tested on the same images: .*" + reason):
        compare(params.experiment("at", 1), path.parent)


def test_what_is_not_there_is_said_with_the_way_out(params: Params, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is missing, nt-1 is not evaluated; .*stages\.evaluate nt --seed 1"):
        compare(params.experiment("at", 1), params.experiment("nt", 1))
    with pytest.raises(RequestError, match=r"it has no metrics\.json"):
        compare(params.experiment("at", 1), tmp_path)
    with pytest.raises(RequestError, match=r"'at-3' is no experiment .* did you mean 'at-[12]'"):
        named(params, "at-3", None)
    with pytest.raises(RequestError, match="several seeds"):
        named(params, "at", None)
    with pytest.raises(RequestError, match=r"unknown attack 'pgd2_linf': did you mean 'pgd20_linf'"):
        compare(params.experiment("at", 1), params.experiment("at", 2), ["pgd2_linf"])
    with pytest.raises(RequestError, match="unknown attack 'aa_linf'"):
        compare(params.experiment("at", 1), params.experiment("at", 2)).images("aa_linf")


def test_a_notebook_shows_tables_and_pictures(params: Params) -> None:
    found = compare(params.experiment("at", 1), params.experiment("at", 2))
    shown = found._repr_html_()
    assert repr(found).startswith("at-1 and at-2\n") and "pgd20_linf" in repr(found)
    assert shown.count("<table") == 2 and shown.count('src="data:image/png;base64,') == 2
    assert "only at-1" in shown and "<th>seed</th>" in shown


def test_the_command_tells_and_draws(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage.main(["at-1", "at-2", "--attack", "pgd20_linf"]) == 0
    said = capsys.readouterr().out.splitlines()
    first, second = (pd.read_parquet(f"results/digits/at-{seed}/evaluate/verdicts.parquet") for seed in (1, 2))
    one, other = (table[table["attack"] == "pgd20_linf"]["correct"].mean() for table in (first, second))
    assert said[0].startswith(f"pgd20_linf: at-1 {one:.2%}, at-2 {other:.2%} of 24 images; only at-1 right: ")
    assert said[1:3] == ["settings that differ, at-1 and at-2:", "  seed: 1 | 2"]
    written = [Path(line.removeprefix("wrote ")) for line in said[3:]]
    assert [path.name for path in written] == [
        "curves.pdf",
        "curves.png",
        "curves.svg",
        "images_pgd20_linf.pdf",
        "images_pgd20_linf.png",
        "images_pgd20_linf.svg",
    ]
    assert {path.parent for path in written} == {Path("reports/digits/small_cnn/comparisons/at-1--at-2")}
    assert all(path.stat().st_size > 5000 for path in written)
