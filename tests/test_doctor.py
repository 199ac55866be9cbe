"""The doctor finds what is wrong, says how to mend it, and does not cry wolf."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiments import doctor
from pipeline.experiments.doctor import Finding, examine
from pipeline.tracking import tracking_uri
from pipeline.tracking.spool import Spool
from tests.conftest import REPOSITORY, MakeParams
from tests.stages.conftest import clean_environment


@pytest.fixture
def checkout(tmp_path: Path, prepared_digits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prepared data and the project's pins, and nothing that leads elsewhere."""
    shutil.copytree(prepared_digits, tmp_path / "data/prepared/digits")
    shutil.copy(REPOSITORY / "constraints.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", clean_environment()["PYTHONPATH"])
    return tmp_path


@pytest.fixture
def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out `pip check`, which takes seconds."""
    monkeypatch.setattr(doctor, "_requirements", lambda: iter(()))


def findings(make_params: MakeParams) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(make_params())}


def test_a_good_machine_has_no_problem(checkout: Path, make_params: MakeParams) -> None:
    found = findings(make_params)
    assert [finding for finding in found.values() if finding.status == "problem"] == []
    assert found["Packages"].status == found["Dependencies"].status == "ok"
    assert found["Data"].text.startswith("digits: 48 training, 32 held-out, 24 test images, digest ")
    assert found["MLflow"].text.endswith("does not exist yet: the first run makes it")
    assert found["DVC"].status == "note" and found["DVC"].fix == "dvc init --no-scm"


@pytest.mark.usefixtures("without_pip")
def test_a_link_to_a_disk_that_is_gone_is_a_problem(checkout: Path, make_params: MakeParams) -> None:
    (checkout / "results").symlink_to(checkout / "disk/results")
    found = findings(make_params)["results"]
    assert found.status == "problem" and "where there is no folder" in found.text
    subprocess.run(found.fix.partition(", or ")[2], shell=True, check=True)
    assert "results" not in findings(make_params)


@pytest.mark.usefixtures("without_pip")
def test_settings_are_checked_as_before_training(checkout: Path, make_params: MakeParams) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["methods"]["again"] = raw["methods"]["nt"]
        raw["ablation"]["studies"]["communication_interval"]["values"] = [9]

    found = {finding.subject: finding for finding in examine(make_params(change))}
    assert found["Settings"].status == "problem" and "c = 9: it divides none of the epochs" in found["Settings"].text
    assert found["Equal settings"].text.startswith("nt-1 and again-1: one is trained")
    assert findings(make_params)["Settings"].status == "ok"


@pytest.mark.usefixtures("without_pip")
def test_data_and_store_that_are_damaged_are_problems(checkout: Path, make_params: MakeParams) -> None:
    images = checkout / "data/prepared/digits/images.safetensors"
    images.write_bytes(images.read_bytes()[:-1])
    (checkout / "mlflow.db").write_bytes(b"no database" * 1000)
    found = findings(make_params)
    assert found["Data"].status == "problem" and "is damaged, its sha256 is" in found["Data"].text
    assert found["Data"].fix == "make prepare"
    assert found["MLflow"].status == "problem" and "is damaged: file is not a database" in found["MLflow"].text


@pytest.mark.usefixtures("without_pip")
def test_an_experiment_that_was_deleted_in_mlflow_is_a_problem(
    checkout: Path, empty_store: Path, make_params: MakeParams
) -> None:
    from mlflow import MlflowClient

    shutil.copy(empty_store, checkout / "mlflow.db")
    client = MlflowClient(tracking_uri())
    number = client.create_experiment("generalist/digits")
    assert "MLflow's experiment" not in findings(make_params)
    client.delete_experiment(number)
    found = findings(make_params)["MLflow's experiment"]
    assert found.status == "problem" and f"restore --experiment-id {number}" in found.fix


@pytest.mark.usefixtures("without_pip")
def test_records_that_wait_for_mlflow_are_counted(checkout: Path, make_params: MakeParams) -> None:
    Spool(checkout / "runs/0123/tracking").append({})
    found = findings(make_params)["Records for MLflow"]
    assert (found.status, found.text, found.fix) == ("note", "1 waits to be delivered", "python -m stages.deliver")


@pytest.mark.usefixtures("without_pip")
def test_other_versions_are_named_with_those_that_were_tested(checkout: Path, make_params: MakeParams) -> None:
    pins = checkout / "constraints.txt"
    pins.write_text("numpy==0.0.1\nno-such-package==1.0\n")
    found = findings(make_params)["Packages"]
    assert found.status == "note" and "(tested: 0.0.1)" in found.text and "no-such-package missing" in found.text


@pytest.mark.usefixtures("without_pip")
def test_a_prefect_server_that_is_named_must_answer(
    checkout: Path, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    found = findings(make_params)["Prefect"]
    assert found.status == "problem" and "does not answer" in found.text and "prefect server start" in found.fix


@pytest.mark.usefixtures("without_pip")
def test_a_full_disk_and_little_memory_are_problems(
    checkout: Path, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.experiments.doctor.FREE_DISK", 1e9)
    monkeypatch.setattr("pipeline.experiments.doctor.FREE_MEMORY", 1e9)
    found = findings(make_params)
    assert found["Disk"].status == found["Memory"].status == "problem"
    assert found["Disk"].fix and found["Memory"].fix


@pytest.mark.usefixtures("without_pip")
def test_an_installation_of_another_folder_is_a_problem(checkout: Path, make_params: MakeParams) -> None:
    mark = checkout / ".venv/bin/.installed"
    mark.parent.mkdir(parents=True)
    mark.write_text(f"{checkout}\n")
    assert findings(make_params)["Installation"].status == "ok"
    mark.write_text("/home/me/before\n")
    found = findings(make_params)["Installation"]
    assert (found.status, found.fix) == ("problem", "make setup") and ".venv was made in /home/me/before" in found.text


def test_packages_where_mlflow_makes_no_database_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/home/me/100%/.venv")
    assert [finding.status for finding in doctor._python()] == ["ok", "problem"]


@pytest.mark.usefixtures("without_pip")
def test_the_way_out_without_dvc_works_within_another_repository(checkout: Path, make_params: MakeParams) -> None:
    subprocess.run(["git", "init", "--quiet", str(checkout.parent)], check=True)
    (checkout / "dvc.yaml").write_text("stages: {}\n")
    found = findings(make_params)["DVC"]
    assert found.status == "note" and found.fix == "dvc init --no-scm"
    subprocess.run([sys.executable, "-m", *found.fix.split(), "--quiet"], check=True)
    assert findings(make_params)["DVC"].text == "every stage is up to date"


@pytest.mark.usefixtures("without_pip")
def test_a_folder_that_is_no_repository_is_noted_and_the_way_out_works(
    checkout: Path, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.provenance.commit.ROOT", checkout)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@localhost")
    found = findings(make_params)["Commit"]
    assert found.status == "note" and "no git repository of its own" in found.text
    subprocess.run(found.fix, shell=True, check=True, capture_output=True)
    assert findings(make_params)["Commit"].status == "ok"
