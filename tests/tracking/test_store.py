"""Addresses, and stores that are missing, damaged or silent."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError, RequestError
from pipeline.grid.local import free_port
from pipeline.tracking import download, finished_runs, mask, read_run, track, tracking_uri
from pipeline.tracking.spool import spool_of
from pipeline.tracking.store import make_store, open_store
from tests.conftest import REPOSITORY
from tests.tracking.results import DATA, EXPERIMENT, experiments, only_run


def test_importing_the_package_does_not_import_mlflow() -> None:
    code = "import sys, pipeline.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_this_package_imports_mlflow() -> None:
    sources = [path for folder in ("pipeline", "stages") for path in (REPOSITORY / folder).rglob("*.py")]
    found = {path for path in sources if re.search(r"^ *(import|from) mlflow\b", path.read_text(), re.MULTILINE)}
    assert found and {path.parent for path in found} == {REPOSITORY / "pipeline/tracking"}


def test_a_store_that_does_not_exist_is_not_made_by_reading(store: Path) -> None:
    (store / "mlflow.db").unlink()
    with pytest.raises(PipelineError, match=rf"no MLflow store at sqlite:///{store}/mlflow.db\. .*MLFLOW_TRACKING_URI"):
        finished_runs(experiments())
    with pytest.raises(PipelineError, match="there is no MLflow store"):
        read_run("0" * 32)
    with pytest.raises(PipelineError, match="there is no MLflow store"):
        download("0" * 32, ["summary.json"], store)
    assert list(store.iterdir()) == []


SOON = 30.0
"""Seconds: MLflow by itself tries again and again, for more than a minute."""
KILLED_WHILE_MAKING = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from pipeline.tracking.store import open_store

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *others):
    if statement.strip().startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

open_store(sys.argv[1], "digits", create=True)
"""


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE metrics", "CREATE TABLE _alembic_tmp_metrics", "INSERT INTO experiments"]
)
def test_a_store_whose_making_is_killed_is_made_by_the_next_process(tmp_path: Path, statement: str) -> None:
    """MLflow makes a schema by migrations; a file with some of them would be of no use to anybody."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    command = [sys.executable, "-c", KILLED_WHILE_MAKING, uri, statement]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}).returncode == -signal.SIGKILL
    client, experiment_id = open_store(uri, "digits", create=True)
    assert client.get_experiment(str(experiment_id)).name == "generalist/digits"
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_database_that_another_program_makes_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, link = tmp_path / "mlflow.db", os.link

    def link_too_late(source: Path, destination: Path) -> None:
        database.write_bytes(b"of another program")
        link(source, destination)

    monkeypatch.setattr(os, "link", link_too_late)
    make_store(f"sqlite:///{database}")
    assert database.read_bytes() == b"of another program"
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_database_is_made_where_a_link_leads_and_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, destination: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "mlflow.db").symlink_to(tmp_path / "disk/runs.db")
    client, _ = open_store(f"sqlite:///{tmp_path}/mlflow.db", "digits", create=True)
    assert (tmp_path / "mlflow.db").is_symlink() and {path.name for path in (tmp_path / "disk").iterdir()} == {
        "runs.db"
    }
    assert {found.name for found in client.search_experiments()} == {"Default", "generalist/digits"}


def test_a_database_that_cannot_be_made_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match=r"file/mlflow\.db cannot be made: .*MLFLOW_TRACKING_URI elsewhere"):
        make_store(f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(RequestError, match=r"has options after '\?'; give the path of the database alone"):
        make_store(f"sqlite:///{tmp_path}/mlflow.db?timeout=30")


def test_a_full_disk_while_the_database_is_made_is_one_message(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pipeline.tracking.store import make_store; import mlflow.tracking; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "make_store(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/mlflow.db"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True)
    assert "pipeline.core.errors.PipelineError: MLflow at sqlite:///" in done.stderr.splitlines()[-1], done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db.lock"}


def test_a_deleted_experiment_says_how_to_bring_it_back(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    with track(EXPERIMENT, DATA):
        pass
    MlflowClient(tracking_uri()).delete_experiment(only_run().info.experiment_id)
    with pytest.raises(PipelineError, match="mlflow experiments restore --experiment-id"):
        finished_runs([EXPERIMENT])
    with track(EXPERIMENT, DATA):
        pass
    assert "mlflow experiments restore --experiment-id" in capsys.readouterr().err
    assert len(spool_of(EXPERIMENT)) == 2


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_not_there_is_reported_soon_and_without_the_password(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:s3cr3t@{address}/runs")
    started = time.monotonic()
    with pytest.raises(PipelineError) as failure:
        finished_runs(experiments())
    assert time.monotonic() - started < SOON
    assert f"{scheme}://me:***@{address}/runs is out of reach" in str(failure.value)
    assert "MLFLOW_TRACKING_URI" in str(failure.value)
    assert "s3cr3t" not in str(failure.value)


def test_a_server_that_never_answers_is_given_up(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_port}")
    started = time.monotonic()
    with pytest.raises(PipelineError, match="out of reach"):
        finished_runs([EXPERIMENT])
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize("uri", ["./mlruns", "file:mlruns", "http://host:port"])
def test_a_folder_or_a_bad_address_is_a_wrong_request(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(RequestError, match="MLFLOW_TRACKING_URI"), track(EXPERIMENT, DATA):
        pass


def test_the_uri_is_that_of_the_environment_or_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/runs.db")
    assert tracking_uri() == "sqlite:////elsewhere/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri() == "http://host:5000"
    (odd := tmp_path / "100%20 #1?").mkdir()
    monkeypatch.chdir(odd)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    open_store(tracking_uri(), "digits", create=True)
    assert {path.name for path in odd.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    assert list(tmp_path.iterdir()) == [odd]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://me:pass@host:5000/x", "http://me:***@host:5000/x"),
        ("API request to http://me:p@ss/word@host failed", "API request to http://me:***@host failed"),
        ("http://host:5000/x", "http://host:5000/x"),
    ],
)
def test_passwords_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked
