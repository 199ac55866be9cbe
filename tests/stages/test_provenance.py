"""explain and export on a real, tiny run, from its MLflow store alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.config import Experiment, load_params
from pipeline.core.files import file_digest
from pipeline.reporting.results import OTHER_ATTACKS
from tests.running import few_steps
from tests.stages.conftest import MakeWorkplace, Workplace

METHOD = "generalist_d_nt_linf"
ATTACKED = 8


def shrink(content: dict[str, Any]) -> None:
    """One trained method, one that is not, and AutoAttack on a handful of images."""
    content["methods"] = {name: content["methods"][name] for name in (METHOD, "at")}
    content["tables"] = {"table1": {**content["tables"]["table1"], "rows": [METHOD, "at"], "file": "first"}}
    content["figures"] = {}
    content["tables"]["table1"]["columns"].append({"metric": "training_seconds", "label": "Time"})
    for name in ("aa_linf", "aa_l2"):
        content["evaluation"]["attacks"][name]["images"] = ATTACKED


@pytest.fixture(scope="module")
def place(make_workplace: MakeWorkplace) -> Workplace:
    """A folder where METHOD was trained and evaluated; afterwards only the MLflow store was left."""
    made = make_workplace(shrink)
    made.call("train", METHOD, "--seed", "1").expect(0)
    with few_steps():
        made.call("evaluate", METHOD, "--seed", "1").expect(0)
    shutil.copytree(made.folder / "results", made.folder.parent / f"{made.folder.name}_kept")
    shutil.rmtree(made.folder / "results")
    shutil.rmtree(made.folder / "runs")
    return made


@pytest.fixture(scope="module")
def kept(place: Workplace) -> Path:
    """What the stages had left of the trained method."""
    return place.folder.parent / f"{place.folder.name}_kept" / "digits" / f"{METHOD}-1"


@pytest.fixture(scope="module")
def experiment(place: Workplace) -> Experiment:
    return load_params(place.folder / "params.yaml").experiment(METHOD, 1)


def explained(place: Workplace, cell: str) -> dict[str, str]:
    """The lines of an explanation by their first words."""
    found = place.call("explain", cell)
    found.expect(0)
    fields: dict[str, str] = {}
    for line in found.out.splitlines():
        name, _, value = line.strip().partition("  ")
        fields[name] = f"{fields.get(name, '')} {value.strip()}".strip()
    return {**fields, "all": found.out}


def run_of(place: Workplace) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place.folder}/mlflow.db")
    found = client.get_experiment_by_name("generalist/digits")
    (run,) = client.search_runs([found.experiment_id])
    return run


def test_every_field_of_an_explanation_is_that_of_the_run(place: Workplace, kept: Path, experiment: Experiment) -> None:
    summary = json.loads((kept / "train/summary.json").read_text())
    metrics = json.loads((kept / "evaluate/metrics.json").read_text())
    verdicts = pd.read_parquet(kept / "evaluate/verdicts.parquet")
    of_attack = verdicts[verdicts["attack"] == "aa_linf"].set_index("image")
    natural = verdicts[verdicts["attack"] == "natural"].set_index("image")["correct"]
    run = run_of(place)

    found = explained(place, f"table1:{METHOD}:aa_linf")
    accuracy = metrics["metrics"]["aa_linf"]
    first = found["all"].splitlines()[0]
    assert first == f"table1:{METHOD}:aa_linf: {100 * accuracy:.0f} (mean over 1 of 1 seeds)"
    epsilon = experiment.threat_model["linf"].epsilon
    for part in ("autoattack", "norm linf", f"epsilon {epsilon}", "apgd_ce", "square", f"{ATTACKED} images", "seed 0"):
        assert part in found["measured with"]
    assert found["experiment"] == f"{METHOD}-1 of suite digits, protocol paper"
    assert found["network, data"] == "small_cnn on digits"
    assert found["fingerprint"] == experiment.fingerprint
    assert found["of the evaluation"] == experiment.evaluation_fingerprint
    assert found["run"].startswith(f"{run.info.run_id}, FINISHED, ended 20")
    assert found["commit"].startswith(run.data.tags["git.commit"])
    assert found["data"] == f"sha256 {summary['data_digest']}"
    assert found["weights"] == f"sha256 {file_digest(kept / 'train/model.safetensors')}"
    assert found["value"] == f"{100 * accuracy:.4f} %"
    right = int(of_attack["correct"].sum())
    mistakes = int((~natural[:ATTACKED] & ~of_attack["correct"]).sum())
    assert found["verdicts"].startswith(
        f"aa_linf: {ATTACKED} images, {right} right, {ATTACKED - right} wrong: {mistakes} without an attack, "
        f"{ATTACKED - right - mistakes} fooled"
    )
    by_member = {
        name: int(count) for name, count in re.findall(r"(\w+) (\d+)[,)]", found["verdicts"].split("fooled")[1])
    }
    fooled = of_attack["fooled_by"].astype(str)
    assert by_member == {name: count for name, count in fooled[fooled != ""].value_counts().items()}
    assert f"dvc repro --force --single-item train@{METHOD}-1 evaluate@{METHOD}-1" in found["all"]
    assert f"rm -rf runs/{experiment.fingerprint}" in found["all"]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("natural", "no attack"),
        ("union", "aa_l2: autoattack"),
        ("worst_case_union", "aa_linf: autoattack"),
        ("training_seconds", "seconds of all training steps"),
    ],
)
def test_numbers_without_an_attack_of_their_own_are_explained(place: Workplace, metric: str, expected: str) -> None:
    assert expected in explained(place, f"first:{METHOD}:{metric}")["all"]


def test_a_missing_cell_says_what_fills_it(place: Workplace) -> None:
    found = explained(place, "table1:at:union")
    assert "not measured yet (mean over 0 of 1 seeds)" in found["all"]
    assert found["to measure it"] == "dvc repro evaluate@at-1"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("table1", "'table1' is no cell: expected table:method:metric"),
        ("tabel1:at:union", "unknown table 'tabel1': did you mean 'table1'? Valid: first, table1"),
        ("table1:aat:union", "table1 has no row 'aat': did you mean 'at'?"),
        ("table1:at:unoin", "table1 has no column 'unoin': did you mean 'union'?"),
    ],
)
def test_a_cell_that_does_not_exist_is_refused(place: Workplace, cell: str, message: str) -> None:
    place.call("explain", cell).expect(2, message)


def test_metrics_that_the_verdicts_contradict_are_found(place: Workplace, tmp_path: Path) -> None:
    import sqlite3

    store = shutil.copy(place.folder / "mlflow.db", tmp_path / "changed.db")
    shutil.copytree(place.folder / "mlartifacts", tmp_path / "mlartifacts")
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE latest_metrics SET value = 0.0123 WHERE key = 'test/natural'")
    found = place.call("explain", f"table1:{METHOD}:natural", store=Path(store))
    assert found.code == 1 and "contradicts itself" in found.err


def test_a_run_of_another_protocol_is_explained_with_its_own_settings(
    place: Workplace, experiment: Experiment, tmp_path: Path
) -> None:
    content = yaml.safe_load((place.folder / "params.yaml").read_text())
    content["protocol"] = "reference_code"
    content["tables"]["table1"]["other_protocols"] = True
    content["threat_model"]["linf"]["epsilon"] = "10/255"
    content["evaluation"]["attacks"]["aa_linf"]["epsilon"] = "10/255"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    given = ["--params", str(tmp_path / "params.yaml")]
    found = place.call("explain", f"table1:{METHOD}:aa_linf", *given)
    found.expect(0)
    asked = load_params(tmp_path / "params.yaml").experiment(METHOD, 1)
    lines = {line[:24].strip(): line[24:] for line in found.out.splitlines()}
    assert f"epsilon {10 / 255}" in lines["measured with"]
    assert f"epsilon {40 / 255}" in lines["measured with instead"]
    assert lines["fingerprint"] == asked.fingerprint and lines["its fingerprint"] == experiment.fingerprint
    assert lines["of its evaluation"] == experiment.evaluation_fingerprint
    assert lines["make it again"] == "compose params.yaml with protocol=paper, explain the cell there"
    assert OTHER_ATTACKS in found.out and "rm -rf" not in found.out and "--force" not in found.out


@pytest.fixture(scope="module")
def exported(place: Workplace) -> Path:
    """What export wrote of the trained method."""
    done = place.call("export", f"table1:{METHOD}:aa_linf")
    done.expect(0)
    assert f"registered models:/digits-{METHOD}/1" in done.out
    return place.folder / "exports" / "digits" / f"{METHOD}-1"


def test_the_exported_weights_are_those_of_the_run(exported: Path, kept: Path) -> None:
    assert (exported / "model.safetensors").read_bytes() == (kept / "train/model.safetensors").read_bytes()


def test_the_card_says_what_the_model_is(place: Workplace, exported: Path, kept: Path, experiment: Experiment) -> None:
    card = (exported / "README.md").read_text()
    content = json.loads((kept / "evaluate/metrics.json").read_text())
    summary = json.loads((kept / "train/summary.json").read_text())
    for name, value in content["metrics"].items():
        low, high = content["intervals"][name]
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {name} |"))
        expected = f"| {100 * value:.2f} | {100 * low:.2f} to {100 * high:.2f} | {content['counts'][name]} |"
        assert row.endswith(expected)
    for text in (
        experiment.method.label,
        "protocol `paper`",
        "license: mit",
        f"SHA-256 `{file_digest(exported / 'model.safetensors')}`",
        f"SHA-256 `{summary['data_digest']}`",
        f"`{experiment.fingerprint}`",
        f"`{run_of(place).info.run_id}`",
        "epsilon 40/255",
        "epsilon 144/255",
        "learner `natural` | natural, sgd, rate 0.05",
        "| mixture | moving_average |",
    ):
        assert text in card, text


def test_the_card_loads_the_model(exported: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where only the exported folder is."""
    shutil.copytree(exported, tmp_path / "received")
    monkeypatch.chdir(tmp_path / "received")
    shown, _ = re.findall(r"^```python\n(.*?)^```", Path("README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(shown, names)
    expected = load_file(kept / "train/model.safetensors")
    loaded = names["model"].state_dict()
    assert not names["model"].training and all(torch.equal(loaded[key], expected[key]) for key in expected)


@pytest.mark.parametrize(("norm", "folder", "epsilon"), [("linf", "Linf", "40/255"), ("l2", "L2", "144/255")])
def test_the_metadata_has_robustbenchs_form(exported: Path, kept: Path, norm: str, folder: str, epsilon: str) -> None:
    info = json.loads((exported / "model_info/digits" / folder / f"{METHOD}-1_small_cnn.json").read_text())
    metrics = json.loads((kept / "evaluate/metrics.json").read_text())["metrics"]
    robust, clean = f"{100 * metrics[f'aa_{norm}']:.2f}", f"{100 * metrics['natural']:.2f}"
    assert {key: type(value) for key, value in info.items()} == {
        **dict.fromkeys(("link", "name", "authors", "venue", "dataset", "architecture", "eps", "clean_acc"), str),
        **dict.fromkeys(("reported", "autoattack_acc", "footnote"), str),
        **{"additional_data": bool, "number_forward_passes": int, "unreliable": bool},
    }
    assert (info["clean_acc"], info["autoattack_acc"], info["reported"]) == (clean, robust, robust)
    assert (info["eps"], info["dataset"], info["architecture"]) == (epsilon, "digits", "small_cnn")
    assert f"AutoAttack on {ATTACKED} of 360 test images." in info["footnote"]


def test_the_registered_model_predicts_what_the_weights_do(
    place: Workplace, exported: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import numpy as np

    from pipeline.data.images import load_split
    from pipeline.models import build_model

    network = build_model("small_cnn", "digits").eval()
    network.load_state_dict(load_file(exported / "model.safetensors"))
    test = load_split(place.folder / "data/prepared/digits", experiment.data).test
    images = test.batch(torch.arange(len(test)))[0]
    with torch.no_grad():
        expected = network(images).numpy()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{place.folder}/mlflow.db")
    try:
        for uri in (f"models:/digits-{METHOD}/1", f"models:/digits-{METHOD}@seed-1"):
            with torch.no_grad():
                logits = mlflow.pytorch.load_model(uri)(images).numpy()
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
            served = mlflow.pyfunc.load_model(uri)
            np.testing.assert_allclose(served.predict(images.numpy()), expected, rtol=1e-4, atol=1e-5)
        assert served.metadata.signature is not None
        folder = mlflow.artifacts.download_artifacts(uri)
    finally:
        mlflow.set_tracking_uri(before)
    requirements = Path(folder, "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in requirements} == {"mlflow", "numpy", "torch"}
    assert all("==" in line for line in requirements)
    assert not list(Path(folder).rglob("*.pth")), "a pickle"


def test_exporting_again_registers_nothing_new_and_leaves_the_run_as_it_was(place: Workplace, exported: Path) -> None:
    before = run_of(place)
    again = place.call("export", run_of(place).info.run_id, "--output", "elsewhere")
    again.expect(0)
    assert f"registered models:/digits-{METHOD}/1 " in again.out
    assert (place.folder / "elsewhere/README.md").read_bytes() == (exported / "README.md").read_bytes()
    after = run_of(place)
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("at-1", "at-1 has no finished run in MLflow: 'dvc repro evaluate@at-1' makes it"),
        ("att-1", "unknown method 'att'"),
        ("at-7", "seed 7 is not one of 'seeds'"),
        ("0" * 32, "has no run '0000"),
        ("something", "'something' is no model: expected an MLflow run id"),
    ],
)
def test_what_cannot_be_exported_is_refused(place: Workplace, run: str, message: str) -> None:
    place.call("export", run).expect(2, message)


def test_a_card_does_not_name_attacks_that_did_not_give_its_numbers(place: Workplace, exported: Path) -> None:
    (stored,) = (place.folder / "mlartifacts").rglob("artifacts/experiment.json")
    content = stored.read_text()
    changed = json.loads(content)
    changed["evaluation"]["attacks"]["aa_linf"]["epsilon"] /= 2
    try:
        stored.write_text(json.dumps(changed))
        place.call("export", f"{METHOD}-1").expect(1, "of another one; finish it: 'dvc repro evaluate@")
    finally:
        stored.write_text(content)


def test_weights_that_are_not_those_of_the_run_are_refused(place: Workplace, exported: Path) -> None:
    (stored,) = (place.folder / "mlartifacts").rglob("artifacts/model.safetensors")
    content = stored.read_bytes()
    try:
        stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        place.call("export", f"{METHOD}-1").expect(1, "the artifact store is damaged")
    finally:
        stored.write_bytes(content)
