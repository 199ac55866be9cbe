"""What can go wrong ends with one message, the right exit code, and everything that existed as it was."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.stages.conftest import METHOD, MakeWorkplace, Workplace, lengthen

NT = ("nt", "--seed", "1")


def test_an_evaluation_before_its_training_names_the_command(workplace: Workplace) -> None:
    text = "results/digits/nt-1/train/summary.json: is missing, nt-1 is not trained; run 'python -m sta"
    workplace.call("evaluate", *NT).expect(2, f"error: {text}")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


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
