"""Corrupted images and accuracies on them, as real stages on a small suite."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from pipeline.config import OOD_METRICS
from tests.running import few_steps
from tests.stages.conftest import METHOD, MakeWorkplace, Workplace

ARGUMENTS = (METHOD, "--seed", "1")
IMAGES = 6


@pytest.fixture(scope="module")
def place(make_workplace: MakeWorkplace) -> Workplace:
    """A trained and evaluated experiment."""
    made = make_workplace(lambda raw: raw["ood"].update(images=IMAGES, methods=[METHOD]))
    made.call("train", *ARGUMENTS).expect(0)
    return made


def images_of(place: Workplace) -> dict[str, str]:
    """Digests of what was made; a lock holds the process that made it."""
    return {path: digest for path, digest in place.files("data/corrupted").items() if not path.endswith(".lock")}


def test_without_corrupted_images_the_command_that_makes_them_is_named(place: Workplace) -> None:
    place.call("ood", *ARGUMENTS).expect(2, "are not ready; run 'python -m stages.corrupt' first")


def test_the_weights_of_the_grid_are_looked_for_where_the_grid_keeps_them(place: Workplace) -> None:
    missing = f"results/ablation/digits/{METHOD}-1/train/summary.json"
    place.call("ood", *ARGUMENTS, "--grid").expect(
        2, f"{missing}: is missing, {METHOD}-1 is not trained; run 'make ablation'"
    )


def test_released_files_that_do_not_exist_are_refused(make_workplace: MakeWorkplace) -> None:
    place = make_workplace(lambda raw: raw["ood"].update(source="official", methods=[METHOD]))
    place.call("corrupt").expect(2, "data set 'digits' has no official corrupted images")


def test_an_experiment_is_measured_on_regenerated_images_and_the_tables_say_so(place: Workplace) -> None:
    made = place.call("corrupt", "--processes", "1")
    made.expect(0)
    assert "corruptions of digits: regenerated" in made.out
    before = images_of(place)
    assert "gaussian_noise" in " ".join(before)
    place.call("corrupt", "--processes", "1").expect(0)
    assert images_of(place) == before
    with few_steps():
        place.call("evaluate", *ARGUMENTS).expect(0)
    place.call("ood", *ARGUMENTS).expect(0)
    folder = place.folder / f"results/digits/{METHOD}-1/ood"
    content = json.loads((folder / "metrics.json").read_text())
    assert set(content["metrics"]) == set(OOD_METRICS)
    assert all(0 <= value <= 1 for value in content["metrics"].values())
    assert content["metrics"]["ood_mce"] == pytest.approx(1 - content["metrics"]["ood_c"])
    by_severity = pd.read_csv(folder / "corruptions.csv")
    assert len(by_severity) == 19 * 5 and set(by_severity["images"]) == {IMAGES}
    assert set(by_severity["provenance"]) == {"regenerated"}
    (place.folder / "mlflow.db").unlink()  # DVC has restored the files, MLflow is new
    done = place.run("tables")
    done.expect(0)
    assert f"logged {METHOD}-1 on corrupted images to MLflow from its files" in done.out
    (table,) = place.folder.glob("reports/**/table4.csv")
    cells = pd.read_csv(table).set_index(["method", "metric"])
    assert cells.loc[(METHOD, "ood_c"), "value"] == pytest.approx(100 * content["metrics"]["ood_c"], abs=0.01)
    assert "dvc repro ood@" in str(cells["command"].tolist())
    assert "Regenerated images, not the released files" in table.with_suffix(".md").read_text()
