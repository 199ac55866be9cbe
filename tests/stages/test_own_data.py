"""Images of one's own through the stages: prepared, trained, attacked, shown in tables, figures and the report."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.config.composing import compose_suite
from pipeline.experiments.own_data import fit
from tests.conftest import REPOSITORY
from tests.data.own import CLASSES, grey_arrays, write_folders
from tests.stages.conftest import Workplace

SMALL = [
    "suite=own",
    "training.epochs=2",
    "training.batch_size=12",
    "training.validation_interval=1",
    "training.threads=1",
    "training.device=cpu",
    "threat_model.linf.steps=1",
    "threat_model.l2.steps=1",
    "evaluation.attacks.aa_linf.queries=5",
    "evaluation.attacks.aa_linf.targets=1",
    "evaluation.attacks.aa_linf.images=2",
    "evaluation.attacks.aa_l2.queries=5",
    "evaluation.attacks.aa_l2.targets=1",
    "evaluation.attacks.aa_l2.images=2",
    "evaluation.attacks.pgd100_linf=null",
    "evaluation.attacks.pgd100_l2=null",
    "data.augmentation.crop_padding=2",
]


ODD = [r"a/b, 50 % of $x_1$ {", r"\frac & <b>#~^"]
"""Names of classes that paths, TeX and HTML would take for something else."""


def own(folder: Path, empty_store: Path, *overrides: str) -> Workplace:
    """A folder with a small suite of its own."""
    place = Workplace(folder)
    content = compose_suite([*SMALL, *overrides], REPOSITORY / "conf", fit).content
    (folder / "params.yaml").write_text(content)
    place.change(keep_one_method)
    shutil.copy(empty_store, folder / "mlflow.db")
    return place


def keep_one_method(content: dict[str, Any]) -> None:
    content["methods"] = {"generalist_t": content["methods"]["generalist_t"]}
    content["tables"] = {"table1": content["tables"]["table1"] | {"rows": ["generalist_t"]}}
    del content["search"], content["ablation"]
    kept = content["figures"]["class_wise_natural"] | {"methods": ["generalist_t"]}
    content["figures"] = {"class_wise_natural": kept}


def run(place: Workplace) -> dict[str, Any]:
    """From the images to the report; what evaluation measured."""
    place.call("prepare").expect(0)
    for stage in ("train", "evaluate"):
        place.call(stage, "generalist_t", "--seed", "1").expect(0)
    for stage in ("tables", "figures", "report"):
        place.call(stage).expect(0)
    metrics = place.folder / "results/own/generalist_t-1/evaluate/metrics.json"
    found: dict[str, Any] = json.loads(metrics.read_text())
    return found


def test_folders_of_colour_images_of_three_classes(tmp_path: Path, empty_store: Path) -> None:
    root = write_folders(tmp_path / "pictures", train=9, test=3)
    (work := tmp_path / "work").mkdir()
    place = own(work, empty_store, f"data.root={root}", "data.size=16")
    assert run(place)["counts"]["natural"] == 9
    report = (work / "reports/own/small_cnn/report.html").read_text()
    assert "dog &amp; co" in report and CLASSES[2] in report
    table = (work / "reports/own/small_cnn/tables/table1.tex").read_text()
    assert "not the standard ensemble" in table and "APGD-DLR" in table
    # Another set with the same names in the same place: nothing of the first is taken for it.
    (root / "train/cat/000.png").write_bytes((root / "test/cat/000.png").read_bytes())
    place.call("prepare").expect(2, "has other images than data.found in params.yaml says", "--accept")
    place.call("prepare", "--accept").expect(0)
    place.call("evaluate", "generalist_t", "--seed", "1").expect(2, "train")


def test_grey_oblong_arrays_of_two_classes(tmp_path: Path, empty_store: Path) -> None:
    np.savez(tmp_path / "mine.npz", **grey_arrays(), classes=ODD)
    place = own(tmp_path, empty_store, "data.name=arrays", f"data.root={tmp_path / 'mine.npz'}")
    content = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert content["evaluation"]["attacks"]["aa_linf"]["members"] == ["apgd_ce", "fab_t", "square"]
    counts = run(place)["counts"]
    assert counts["natural"] == 12 and counts["aa_linf"] == 2
    report = (tmp_path / "reports/own/small_cnn/report.html").read_text()
    assert all(html.escape(name) in report for name in ODD)
    assert (tmp_path / "reports/own/small_cnn/figures/class_wise_natural.pdf").is_file()


def test_a_function_that_gives_a_data_set_of_torchvision(tmp_path: Path, empty_store: Path) -> None:
    place = own(tmp_path, empty_store, "data.name=tests.data.own:fake_data")
    assert run(place)["counts"]["natural"] == 24
    assert (tmp_path / "data/prepared/tests.data.own:fake_data/manifest.json").is_file()


@pytest.mark.parametrize("name", ["images", "arrays"])
def test_images_that_are_not_there(tmp_path: Path, name: str) -> None:
    place = Workplace(tmp_path)
    (tmp_path / "conf").symlink_to(REPOSITORY / "conf")
    result = place.call("compose", "suite=own", f"data.name={name}", "data.root=nowhere")
    result.expect(2, "data.root: nowhere is no")
    assert not (tmp_path / "params.yaml").exists()
