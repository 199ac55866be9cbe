"""What `make ablation` does by default: a server and workers of its own, which never outlive it for long."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages import ablation
from tests.conftest import REPOSITORY
from tests.stages.conftest import MakeWorkplace, Workplace, interrupt, listening, wait_for

METHOD = "generalist_d_nt_linf"
EPOCHS = 24


def two(content: dict[str, Any]) -> None:
    """A grid of two experiments, each of which lasts seconds."""
    content["methods"] = {METHOD: content["methods"][METHOD]}
    content["tables"], content["figures"] = {}, {}
    content["training"]["epochs"] = EPOCHS
    content["data"]["train_images"] = 320
    attacks = content["evaluation"]["attacks"]
    content["evaluation"]["attacks"] = {name: attacks[name] for name in ("pgd20_linf", "noise_linf")}
    content["evaluation"]["union"] = ["pgd20_linf", "noise_linf"]
    study = {"label": "c", "varies": "communication_interval", "methods": [METHOD], "values": [1, 3]}
    content["ablation"]["studies"] = {"intervals": study}


def of_two_experiments(make_workplace: MakeWorkplace) -> Workplace:
    made = make_workplace(two)
    for name in ("prefect.yaml", "automations.yaml"):
        shutil.copy(REPOSITORY / name, made.folder)
    return made


def start(place: Workplace) -> subprocess.Popen[str]:
    return place.start("ablation", "--workers", "1", PREFECT_API_URL="")


def epochs(place: Workplace) -> int:
    """Of the newest checkpoints of both experiments, added up."""
    newest: dict[Path, int] = {}
    for path in place.folder.glob("runs/*/*/checkpoints/*.json"):
        newest[path.parent] = max(newest.get(path.parent, 0), int(path.name.partition("-")[0]))
    return sum(newest.values())


def at_work(folder: Path) -> set[int]:
    """The processes whose current folder this is."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found |= {process.pid} if process.cwd() == str(folder) else set()
    return found


def remembered(place: Workplace) -> list[int]:
    """The server and the worker."""
    return [int(pid) for pid in json.loads((place.folder / ".prefect/processes.json").read_text())]


def test_a_grid_that_is_stopped_says_how_to_go_on_and_leaves_nothing_behind(make_workplace: MakeWorkplace) -> None:
    """What follows, when it is killed, too, and comes to its end: `faults_grid.py`."""
    place = of_two_experiments(make_workplace)
    grid = start(place)
    wait_for(lambda: epochs(place) >= 2, grid)
    assert {address.ip for pid in remembered(place) for address in listening(psutil.Process(pid))} == {"127.0.0.1"}
    stopped = interrupt(grid, signal.SIGTERM)
    assert stopped.code == 75 and "the same command continues" in stopped.err, stopped
    assert not at_work(place.folder)


# --- Signals


@pytest.fixture
def terminal() -> Iterator[None]:
    """SIGHUP as a terminal leaves it, also where these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_unwind_once_unless_a_person_insists(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with ablation.unwound_by_signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_grid_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ablation.unwound_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
