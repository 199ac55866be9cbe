"""What `make ablation` does by default: a server and workers of its own, which never outlive it for long."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages import ablation
from tests.conftest import REPOSITORY, keep
from tests.stages.conftest import MakeWorkplace, Workplace, interrupt, listening, wait_for
from tests.tracking.results import all_runs

METHOD = "generalist_d_nt_linf"
EPOCHS = 24


def two(content: dict[str, Any]) -> None:
    """A grid of two experiments, each of which lasts seconds."""
    keep(content, [METHOD], ["pgd20_linf", "noise_linf"])
    content["training"]["epochs"] = EPOCHS
    content["data"]["train_images"] = 320
    study = {"label": "c", "varies": "communication_interval", "methods": [METHOD], "values": [1, 3]}
    content["ablation"]["studies"] = {"intervals": study}


def one(content: dict[str, Any]) -> None:
    """A grid of one experiment."""
    two(content)
    content["training"]["epochs"] = 4
    content["ablation"]["studies"]["intervals"]["values"] = [1]


def with_a_grid(make_workplace: MakeWorkplace, change: Callable[[dict[str, Any]], None]) -> Workplace:
    made = make_workplace(change)
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
    place = with_a_grid(make_workplace, two)
    grid = start(place)
    wait_for(lambda: epochs(place) >= 2, grid)
    assert {address.ip for pid in remembered(place) for address in listening(psutil.Process(pid))} == {"127.0.0.1"}
    stopped = interrupt(grid, signal.SIGTERM)
    assert stopped.code == 75 and "the same command continues" in stopped.err, stopped
    assert "Crash" not in stopped.out + stopped.err and "Traceback" not in stopped.out + stopped.err, stopped
    assert re.search(r"\d of 2 done, .*(left, ends|time left not known yet)", stopped.out + stopped.err), stopped
    assert not at_work(place.folder)


def asked(proxy: socket.socket) -> list[bytes]:
    """How each request begins that waits for an answer, one whose process has ended, too."""
    found = []
    proxy.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = proxy.accept()
            with connection:
                connection.settimeout(1)
                found.append(connection.recv(200))
    return found


def test_a_grid_ends_well_in_a_folder_of_any_letters_behind_a_proxy_that_never_answers(
    make_workplace: MakeWorkplace,
) -> None:
    """Letters that mean something in the address of a database, and in that of a page."""
    made = with_a_grid(make_workplace, one).folder
    place = Workplace(made / "100%20 #1?")
    place.folder.mkdir()
    for path in [path for path in made.iterdir() if path != place.folder]:
        path.rename(place.folder / path.name)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        proxies = dict.fromkeys(names, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        done = place.run("ablation", "--workers", "1", PREFECT_API_URL="", no_proxy="", NO_PROXY="", **proxies)
        done.expect(0)
        assert [text for text in asked(proxy) if b"127.0.0.1" in text or b"localhost" in text] == []
    assert "1 experiments are done" in done.out + done.err
    (run,) = all_runs(place.folder / "mlflow.db")
    assert run.info.status == "FINISHED" and run.info.artifact_uri.startswith(place.folder.as_uri())
    assert (place.folder / ".prefect/prefect.db").stat().st_size and not at_work(place.folder)
    assert list(made.iterdir()) == [place.folder], "nothing was written to where a part of the name leads"


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
