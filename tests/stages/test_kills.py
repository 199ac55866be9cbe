"""An evaluation that is killed ten times at random moments gives the bits of one that was left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from tests.stages.conftest import METHOD, PATIENCE, MakeWorkplace, Workplace, lengthen

ARGUMENTS = [METHOD, "--seed", "1"]
KILLS = 10
OUTPUT = f"results/digits/{METHOD}-1/evaluate"


def many_pieces(content: dict[str, Any]) -> None:
    """Two dozen and more pieces of work, each of a fraction of a second."""
    lengthen(content)
    content["evaluation"]["batch_size"] = 4


def evaluate_here(folder: Path) -> None:
    """The stage in a process whose imports are made."""
    from stages import evaluate

    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        os.chdir(folder)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        sys.exit(evaluate.main(ARGUMENTS))


def journal(place: Workplace) -> list[Path]:
    return sorted(place.folder.glob("runs/*/evaluation/*/*/[!.]*.json"))


def kill(process: ForkServerProcess, place: Workplace, pieces: int, delay: float) -> None:
    """Kill it once that many more pieces are journaled, and a moment has passed."""
    wanted, deadline = len(journal(place)) + pieces, time.monotonic() + PATIENCE
    while len(journal(place)) < wanted and process.is_alive():
        assert time.monotonic() < deadline, "the evaluation does not get there"
        time.sleep(0.002)
    time.sleep(delay)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.fixture
def places(make_workplace: MakeWorkplace, uninterrupted: Workplace) -> tuple[Workplace, Workplace]:
    """Two folders with the same trained weights: one to be left alone, one to be harmed."""
    made = make_workplace(many_pieces), make_workplace(many_pieces)
    for place in made:
        shutil.copytree(uninterrupted.folder / f"results/digits/{METHOD}-1/train", place.folder / OUTPUT / "../train")
    return made


def test_ten_kills_change_no_bit(places: tuple[Workplace, Workplace]) -> None:
    alone, harmed = places
    alone.run("evaluate", *ARGUMENTS).expect(0)
    context, moments = get_context("forkserver"), random.Random(20261121)
    context.set_forkserver_preload(["stages.evaluate", "pipeline.evaluation.evaluate", "mlflow.tracking", "pandas"])
    codes, journaled = [], [0]
    for _ in range(KILLS):
        process = context.Process(target=evaluate_here, args=(harmed.folder,))
        process.start()
        kill(process, harmed, pieces=moments.randint(0, 5), delay=moments.uniform(0, 0.05))
        codes.append(process.exitcode)
        journaled.append(len(journal(harmed)))
    assert codes == [-signal.SIGKILL] * KILLS, "each was killed while it worked"
    assert journaled == sorted(journaled) and 0 < journaled[-1] < len(journal(alone))
    harmed.run("evaluate", *ARGUMENTS).expect(0)
    for name in ("verdicts.parquet", "classes.csv", "trust.json"):
        assert (harmed.folder / OUTPUT / name).read_bytes() == (alone.folder / OUTPUT / name).read_bytes(), name
    assert [path.name for path in journal(harmed)] == [path.name for path in journal(alone)]
