"""Stores that are older than this project's MLflow, and runs that other hands have changed."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.tracking import ensure_logged, finished_runs, read_histories, track, tracking_uri
from pipeline.tracking.spool import spool_of
from tests.tracking.results import (
    DATA,
    EXPERIMENT,
    METRICS,
    all_runs,
    experiments,
    only_run,
    train_and_evaluate,
    write_results,
)

OLDER = Path(__file__).with_name("older_store.sql")
"""The rows that MLflow 3.10.0, the oldest that pyproject.toml allows, wrote for an evaluated run."""
SCHEMA = "1b5f0d9ad7c1"
"""The revision of MLflow's schema that 3.10.0 had."""


@pytest.fixture
def older_store(store: Path) -> Path:
    """A store of an older MLflow with one evaluated run."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    (store / "mlflow.db").unlink()
    uri = f"sqlite:///{store}/mlflow.db"
    engine = create_engine(uri)
    Base.metadata.create_all(engine)
    engine.dispose()
    command.upgrade(_get_alembic_config(uri), SCHEMA)
    with closing(sqlite3.connect(store / "mlflow.db")) as connection:
        connection.executescript(OLDER.read_text(encoding="utf-8"))
    return store


@pytest.mark.slow
def test_an_older_store_is_brought_up_to_date_and_has_its_numbers(older_store: Path) -> None:
    with closing(sqlite3.connect(older_store / "mlflow.db")) as connection:  # of the settings of today
        for key in ("fingerprint", "evaluation_fingerprint"):
            connection.execute("UPDATE tags SET value = ? WHERE key = ?", (getattr(EXPERIMENT, key), key))
        connection.commit()
    (row,) = finished_runs([EXPERIMENT]).to_dict("records")
    assert {name: row[f"metric.{name}"] for name in METRICS} == METRICS
    assert row["made_by"] == "other code"
    train_and_evaluate(write_results(older_store / "results"))
    assert finished_runs([EXPERIMENT])["made_by"].tolist() == ["this code"]


@pytest.mark.parametrize("schema", ["1971f2d9a75b", "ffffffffffff"])
def test_a_schema_that_mlflow_does_not_bring_up_to_date_says_what_does(
    store: Path, schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of the same tables, but older, and one that is newer."""
    with closing(sqlite3.connect(store / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (schema,))
        connection.commit()
    with pytest.raises(PipelineError, match=rf"'mlflow db upgrade sqlite:///{store}/mlflow.db'\. One of a newer: inst"):
        finished_runs(experiments())
    train_and_evaluate(write_results(store / "results"))
    assert capsys.readouterr().err.count("mlflow db upgrade") == 2, "said by each stage, and the work goes on"
    assert len(spool_of(EXPERIMENT)) > 0


def test_a_deleted_run_is_logged_again_from_its_results(store: Path) -> None:
    from mlflow import MlflowClient

    results, client = write_results(store / "results"), MlflowClient(tracking_uri())
    train_and_evaluate(results)
    deleted = only_run().info.run_id
    client.delete_run(deleted)
    assert finished_runs(experiments()).empty
    assert ensure_logged(EXPERIMENT, results) and not ensure_logged(EXPERIMENT, results)
    again = only_run().info.run_id
    client.restore_run(deleted)
    assert finished_runs(experiments())["run_id"].tolist() == [deleted, again], "the later one is shown"


def test_numbers_that_are_none_are_as_good_as_not_measured(store: Path) -> None:
    from mlflow import MlflowClient

    train_and_evaluate(write_results(store / "results"))
    client, run = MlflowClient(tracking_uri()), only_run().info.run_id
    for name, value in {
        "test/natural": math.nan,
        "test/pgd_l2": math.inf,
        "test_images/natural": math.nan,
        "test/odd key: a/b-c. d": 0.5,
        "summary/seconds": -math.inf,
    }.items():
        client.log_metric(run, name, value)
    for name in ("test_images", "seconds"):  # as older runs, which have metrics in their place
        client.delete_tag(run, name)
    (row,) = finished_runs(experiments()).to_dict("records")
    assert "metric.natural" not in row and "metric.pgd_l2" not in row and "count.natural" not in row
    assert row["metric.training_seconds"] is None or math.isnan(row["metric.training_seconds"])
    assert row["metric.union"] == METRICS["union"]


def test_a_run_that_a_kill_left_running_counts_by_what_it_holds(store: Path) -> None:
    from mlflow import MlflowClient

    train_and_evaluate(write_results(store / "results"))
    with track(experiments()[1], DATA) as run:
        run.log_training(write_results(store / "other", experiments()[1]) / "train")
    client = MlflowClient(tracking_uri())
    for one in all_runs():
        client.update_run(one.info.run_id, status="RUNNING")
    (row,) = finished_runs(experiments()).to_dict("records")
    assert row["seed"] == 0 and row["metric.union"] == METRICS["union"]
    assert len(read_histories([row["run_id"]])) == 1
