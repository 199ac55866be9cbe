"""What can go wrong ends with one message, the right exit code, and everything that existed as it was."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stages.conftest import METHOD, MakeWorkplace, Workplace, lengthen

NT = ("nt", "--seed", "1")


def several_mistakes(content: dict[str, Any]) -> None:
    content["training"]["epoch"] = content["training"].pop("epochs")
    content["methods"]["at"]["learners"]["linf"]["objective"]["norm"] = "l0"
    content["methods"]["generalist_t"]["mixture"]["communication_interval"] = 0
    content["tables"]["table1"]["rows"].append("unknown")


def test_all_mistakes_of_the_file_are_listed_before_anything_is_written(make_workplace: MakeWorkplace) -> None:
    place = make_workplace(several_mistakes)
    before = place.files()
    for stage, arguments in (("train", NT), ("tables", ())):
        place.call(stage, *arguments).expect(
            2,
            "error: params.yaml: 5 mistakes, nothing was started\n",
            "  training.epochs: is missing\n",
            "  training.epoch: unknown key; did you mean 'epochs'?",
            "  methods.at.learners.linf.objective: norm 'l0' has no budget in threat_model; norms with one: linf, l2",
            "  methods.generalist_t.mixture.communication_interval: input should be greater than or equal to 1 (got 0)",
            "  tables.table1.rows: unknown method 'unknown': Valid: nt,",
        )
    assert place.files() == before


@pytest.mark.parametrize(
    ("stage", "arguments", "text"),
    [
        ("train", ("generalist", "--seed", "1"), "unknown method 'generalist': did you mean 'generalist_t'? Valid: nt"),
        ("train", ("nt", "--seed", "2"), "seed 2 is not one of 'seeds' in params.yaml: [1]"),
        ("evaluate", NT, "nt-1 is not trained: results/digits/nt-1/train/summary.json is missing; run 'python -m stag"),
        ("prepare", ("--params", "other.yaml"), "other.yaml: cannot be read (No such file or directory). 'make suite"),
    ],
)
def test_a_wrong_request_changes_nothing(workplace: Workplace, stage: str, arguments: list[str], text: str) -> None:
    before = workplace.files()
    workplace.call(stage, *arguments).expect(2, f"error: {text}")
    assert workplace.files() == before


def remove(path: Path) -> None:
    shutil.rmtree(path.parent)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "text"), [(remove, "is missing, data set 'digits' is not prepared."), (flip, "is damaged, its sha256 is ")]
)
def test_data_that_is_missing_or_damaged_names_the_command(
    workplace: Workplace, harm: Callable[[Path], None], text: str
) -> None:
    harm(workplace.folder / "data/prepared/digits/images.safetensors")
    before = workplace.files()
    workplace.call("train", *NT).expect(2, text, "'python -m stages.prepare' writes it anew.")
    assert workplace.files() == before


def test_when_every_checkpoint_is_damaged_nothing_is_changed(
    make_workplace: MakeWorkplace, uninterrupted: Workplace
) -> None:
    place = make_workplace(lengthen)
    shutil.copytree(uninterrupted.folder / "runs", place.folder / "runs")
    *older, newer = checkpoints = place.checkpoints()
    for path in older:
        flip(path)
    newer.write_bytes(newer.read_bytes()[:1000])
    before = place.files("runs")
    place.call("train", METHOD, "--seed", "1").expect(
        1,
        "error: every checkpoint in runs/",
        f"is damaged: {', '.join(path.name for path in reversed(checkpoints))}. Nothing was changed.",
        "Restore one from a backup, or remove the folder to train from the start.",
    )
    assert place.files("runs") == before and not (place.folder / "results").exists()


def test_a_server_that_does_not_answer_is_named_where_runs_are_read(workplace: Workplace) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = workplace.files()
    workplace.run("tables", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}").expect(
        1,
        f"error: MLflow at http://127.0.0.1:{port} is out of reach",
        "Start the server, or correct or unset MLFLOW_TRACKING_URI.",
    )
    assert workplace.files() == before


def test_a_folder_as_the_store_is_a_wrong_request_before_training_begins(workplace: Workplace) -> None:
    workplace.run("train", *NT, MLFLOW_TRACKING_URI="./mlruns").expect(2, "error: MLFLOW_TRACKING_URI './mlruns' is a")
    assert not workplace.checkpoints() and not (workplace.folder / "results").exists()


KILLED_IN_A_TRANSACTION = """
import os, signal, sqlite3
connection = sqlite3.connect("mlflow.db")
connection.execute("pragma cache_size = 5")  # pages: what does not fit goes to the file before the transaction ends
connection.execute("create table unfinished (text)")
connection.executemany("insert into unfinished values (?)", [("x" * 200,)] * 5000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_the_store_is_written_is_recovered_from(workplace: Workplace) -> None:
    command = [sys.executable, "-c", KILLED_IN_A_TRANSACTION]
    assert subprocess.run(command, cwd=workplace.folder, check=False).returncode == -signal.SIGKILL
    assert (workplace.folder / "mlflow.db-journal").stat().st_size > 0
    workplace.run("train", *NT).expect(0)
