"""A store that is moved, copied or shared: its artifacts are beside it, and nobody else's are touched."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.files import file_digest
from pipeline.tracking import download, ensure_logged, finished_runs, lost_runs, read_histories
from pipeline.tracking.home import PATHS
from tests.tracking.results import (
    EXPERIMENT,
    all_runs,
    as_another_process,
    experiments,
    train_and_evaluate,
    write_results,
)

pytestmark = pytest.mark.usefixtures("at_home")
MOVED = "was moved or copied: its artifacts, in file://"


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in this test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def checkout(tmp_path: Path, empty_store: Path) -> Path:
    """A folder with a store that has one evaluated run and a registered model, and the results."""
    from mlflow import MlflowClient

    folder = tmp_path / "first"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    os.chdir(folder)
    train_and_evaluate(write_results(folder / "results"))
    (run,) = all_runs()
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.create_registered_model("small-nt")
    client.create_model_version("small-nt", f"{run.info.artifact_uri}/model", run.info.run_id)
    os.chdir(tmp_path)
    as_another_process()
    return folder


def paths(folder: Path) -> Iterator[str]:
    """Every path of artifacts in a store, but for that of MLflow's own experiment."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        for table, column in PATHS:
            for (path,) in connection.execute(f"SELECT {column} FROM {table} WHERE {column} LIKE '%mlartifacts%'"):
                yield path


def files(folder: Path) -> dict[str, str]:
    return {str(path): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["second", "a b#c é", "deeper/second"])
def test_a_moved_checkout_has_its_artifacts_and_says_that_it_was_moved(
    checkout: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = checkout.parent / name
    place.parent.mkdir(exist_ok=True)
    checkout.rename(place)
    os.chdir(place)
    (run,) = finished_runs(experiments())["run_id"]
    said = capsys.readouterr().err
    assert said.startswith(f"note: {place}/mlflow.db {MOVED}") and said.count("\n") == 1
    assert len(read_histories([run])[run]) == 3
    (place / "copy").mkdir()
    download(run, ["model.safetensors"], place / "copy")
    assert all(path.startswith((place / "mlartifacts").as_uri()) for path in paths(place)) and len([*paths(place)]) == 4
    train_and_evaluate(write_results(place / "other", experiments()[1]), experiments()[1])
    assert len(list(place.glob("mlartifacts/small/*/artifacts/history.json"))) == 2
    assert not checkout.exists() and capsys.readouterr().err == "" and lost_runs() == []


def test_a_copy_never_touches_its_original(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied, before = shutil.copytree(checkout, checkout.with_name("copied")), files(checkout)
    os.chdir(copied)
    train_and_evaluate(write_results(copied / "results", weights="other"))
    train_and_evaluate(write_results(copied / "more", experiments()[1]), experiments()[1])
    assert MOVED in capsys.readouterr().err
    assert files(checkout) == before
    assert all(path.startswith((copied / "mlartifacts").as_uri()) for path in paths(copied))
    os.chdir(checkout)
    as_another_process()
    (run,) = finished_runs(experiments())["run_id"]
    shutil.rmtree(copied / "mlartifacts")  # as 'make clean' there
    assert len(read_histories([run])[run]) == 3
    assert capsys.readouterr().err == "" and files(checkout) == before


def test_what_did_not_come_along_is_said_and_comes_back_from_the_results(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = checkout.with_name("copied")
    shutil.copytree(checkout, copied, ignore=shutil.ignore_patterns("mlartifacts"))
    os.chdir(copied)
    runs = finished_runs(experiments())["run_id"].tolist()
    assert "Those of 1 runs are not there. 'python -m stages.tables' logs again" in capsys.readouterr().err
    assert lost_runs() == runs
    assert read_histories(runs) == {} == read_histories(runs)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: 1 of 1 runs, {runs[0]} among them, have no whole history.json in MLflow")
    assert said.count("\n") == 1, "once of each run"
    with pytest.raises(PipelineError, match=rf"run {runs[0]} has no history\.json in MLflow\. 'python -m stages.tab"):
        download(runs[0], ["history.json"], copied)
    assert ensure_logged(EXPERIMENT, copied / "results") and not ensure_logged(EXPERIMENT, copied / "results")
    assert list(read_histories(runs)) == runs and lost_runs() == []
    assert finished_runs(experiments())["run_id"].tolist() == runs


def test_one_lost_file_comes_back_from_the_results(checkout: Path) -> None:
    os.chdir(checkout)
    (path,) = checkout.glob("mlartifacts/small/*/artifacts/verdicts.parquet")
    path.unlink()
    assert ensure_logged(EXPERIMENT, checkout / "results")
    assert path.read_bytes() == b"verdicts"


def by_a_linked_folder(checkout: Path) -> Path:
    checkout.with_name("linked").symlink_to(checkout)
    return checkout.with_name("linked") / "mlflow.db"


def by_a_linked_database(checkout: Path) -> Path:
    checkout.with_name("linked").mkdir()
    (checkout.with_name("linked") / "runs.db").symlink_to(checkout / "mlflow.db")
    return checkout.with_name("linked") / "runs.db"


def by_a_link_that_took_its_place(checkout: Path) -> Path:
    place = checkout.rename(checkout.with_name("disk"))
    checkout.symlink_to(place)
    return place / "mlflow.db"


def from_another_clone(checkout: Path) -> Path:
    return checkout / "mlflow.db"


@pytest.mark.parametrize(
    "way", [by_a_linked_folder, by_a_linked_database, by_a_link_that_took_its_place, from_another_clone]
)
def test_one_store_that_is_reached_in_several_ways_stays_as_it_is(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: object
) -> None:
    before = list(paths(checkout))
    assert callable(way)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{way(checkout)}")
    (run,) = finished_runs(experiments())["run_id"]
    train_and_evaluate(write_results(Path("other"), experiments()[1]), experiments()[1])
    assert len(finished_runs(experiments())) == 2
    assert len(read_histories([run])[run]) == 3
    assert capsys.readouterr().err == "" and set(before) <= set(paths(checkout))
    assert len(list(checkout.glob("mlartifacts/small/*/artifacts/history.json"))) == 2, "both clones' runs are there"


@pytest.mark.parametrize("location", ["mlflow-artifacts:/1", "s3://bucket/mlartifacts/small", "file:///elsewhere/1"])
def test_artifacts_that_are_not_beside_a_database_stay_where_they_are(
    tmp_path: Path, empty_store: Path, location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    made = client.create_experiment("generalist/small", artifact_location=location)
    client.set_tag(client.create_run(made).info.run_id, "trained", "true")
    assert finished_runs(experiments()).empty and lost_runs() == []
    assert client.get_experiment(made).artifact_location == location
    assert capsys.readouterr().err == ""


def test_relative_paths_lead_to_where_the_store_is(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow follows them from whatever folder a command is started in."""
    with closing(sqlite3.connect(checkout / "mlflow.db")) as connection:
        for table, column in PATHS:
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, 'file://{checkout}/', '')")
        connection.commit()
    assert {path[:12] for path in paths(checkout)} == {"mlartifacts/"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{checkout}/mlflow.db")
    (run,) = finished_runs(experiments())["run_id"]
    assert len(read_histories([run])[run]) == 3
    assert f"in mlartifacts before, are looked for in file://{checkout}/mlartifacts now" in capsys.readouterr().err
