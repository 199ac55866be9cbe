"""Every wait that the code names speaks after five seconds, and ends within five of a signal, with exit code 75."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from threading import Thread, Timer

import pytest
import yaml

from pipeline.core import waiting
from pipeline.core.errors import Interrupted, PipelineError
from pipeline.core.signals import stop_on_signal
from pipeline.reporting.markdown import block
from tests.conftest import PATIENCE, REPOSITORY, content_of
from tests.environment.waits import SCENARIOS
from tests.stages.conftest import clean_environment

WAITING = re.compile(r"kind\(")
WITHIN = 5.0
"""Seconds to the first word, and to the end after a signal."""
BUSY = 20.0
"""Seconds more where other tests keep the machine busy; alone, all are within: docs/reliability.md has their times."""
GRID = {
    "Prefect server",
    "workers",
    "Prefect commands",
    "ending",
    "runs",
    "named Prefect server",
    "logs",
    "probe",
    "DVC",
    "MLflow's page",
}
"""Waits of commands that a signal unwinds at once; in all others it is first remembered."""


def named_waits() -> dict[str, waiting.Wait]:
    """All that modules of the project name."""
    for path in [*(REPOSITORY / "pipeline").rglob("*.py"), *(REPOSITORY / "stages").rglob("*.py")]:
        if WAITING.search(path.read_text()) and path.stem != "waiting":
            import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    return waiting.WAITS


def test_every_wait_has_a_scenario() -> None:
    assert set(named_waits()) == set(SCENARIOS)


@dataclass(frozen=True)
class Waited:
    """How a process waited and ended."""

    silent: float
    """Seconds to the first word."""
    ending: float
    """Seconds from the signal to the last sentence, after which Python takes its libraries down."""
    word: str
    code: int
    rest: str


def wait_and_stop(name: str, number: signal.Signals, folder: Path) -> Waited:
    """Let a scenario wait in a folder with params.yaml until it has spoken, and stop it."""
    environment = clean_environment() | ({"GRID": "1"} if name in GRID else {})
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.environment.waits", name, str(folder)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    begun = word = ""
    started = spoken = 0.0
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if line == "begun\n":
            begun, started = line, time.monotonic()
        elif begun and "waiting" in line:
            word, spoken = line, time.monotonic()
            break
    assert word, "".join(said)
    process.send_signal(number)
    stopped = time.monotonic()
    too_late = Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
    too_late.start()
    rest, answered = "", math.inf
    for line in process.stdout:
        rest += line
        answered = time.monotonic() - stopped if line.startswith("stopped: ") else answered
    code = process.wait()
    too_late.cancel()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it has started
    return Waited(spoken - started, answered, word, code, rest)


@pytest.fixture(scope="module")
def waited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Waited]]:
    """All scenarios, four at a time: most of the time they do nothing."""
    found: dict[str, Waited] = {}
    text = yaml.safe_dump(content_of("competitors=none"), sort_keys=False)  # Hydra composes in one thread alone

    def work(place: int, name: str) -> None:
        number = (signal.SIGTERM, signal.SIGINT)[place % 2]
        folder = tmp_path_factory.mktemp("wait")
        (folder / "params.yaml").write_text(text)
        try:
            found[name] = wait_and_stop(name, number, folder)
        except AssertionError as error:
            found[name] = Waited(0, 0, "", -1, repr(error))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, count(), SCENARIOS))
    yield found


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_wait_speaks_and_ends(waited: dict[str, Waited], name: str) -> None:
    one = waited[name]
    assert one.code == Interrupted.exit_code and "stopped" in one.rest, one
    assert "Traceback" not in one.rest, one
    assert one.silent < WITHIN + BUSY and one.ending < WITHIN + BUSY, one
    wait = named_waits()[name]
    assert wait.patience == float("inf") or "at most" in one.word, one


def test_the_first_word_comes_within_five_seconds_by_the_code() -> None:
    assert waiting.FIRST_WORD <= WITHIN and waiting.POLL <= 1
    assert all(wait.grace < WITHIN for wait in named_waits().values())


def test_a_wait_that_is_suspended_does_not_count_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *(1e6 * hour for hour in range(1, 100))])
    monkeypatch.setattr("pipeline.core.waiting.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("pipeline.core.waiting.time.sleep", lambda seconds: None)
    looks = iter([None] * 3 + [True])
    assert waiting.until(waiting.Wait("a", "b", patience=10), "nobody", lambda: next(looks)) is True


def test_what_never_comes_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(0.0, 0.01)
    monkeypatch.setattr("pipeline.core.waiting.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("pipeline.core.waiting.time.sleep", lambda seconds: None)
    monkeypatch.setattr(waiting, "FIRST_WORD", 0.02)
    with pytest.raises(PipelineError, match="it never came"):
        waiting.until(waiting.Wait("a", "b", 0.3), "somebody", lambda: None, in_vain="it never came", poll=0.01)
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 6, "rarer and rarer"
    assert re.fullmatch(r"waiting for somebody since \d\d:\d\d:\d\d, until \d\d:\d\d:\d\d at most", lines[0])


def test_a_signal_ends_a_wait_of_the_main_thread_alone() -> None:
    """A thread that delivers waits for its store, too; the main one goes on with its step meanwhile."""
    with stop_on_signal() as should_stop:
        entered = Thread(target=lambda: waiting.speaking(waiting.Wait("a", "b"), "a store").__enter__())
        entered.start()
        entered.join()
        signal.raise_signal(signal.SIGTERM)
        assert should_stop() == "SIGTERM received"
    a_server = waiting.speaking(waiting.Wait("a", "b"), "a server")
    with pytest.raises(Interrupted, match="while waiting for a server"), stop_on_signal(), a_server:
        signal.raise_signal(signal.SIGTERM)


def test_the_page_has_the_two_times_of_every_wait() -> None:
    from tests.environment.measured_waits import PAGE, RESULTS, table  # which imports this module

    measured = json.loads(RESULTS.read_text())
    assert set(measured["waits"]) == set(SCENARIOS)
    assert all(max(one["first_word"], one["end"]) <= WITHIN + 2 for one in measured["waits"].values())
    assert block(PAGE.read_text(encoding="utf-8"), "waits") == table(measured)


BARE = re.compile(r"\btime\.sleep\(|\.wait\((?!timeout)|FileLock\(|\.join\(\d|\bprocess\.wait\(|dist\.barrier")
KNOWN = {
    "pipeline/core/waiting.py": "is how everything waits",
    "pipeline/core/ranks.py": "looks for a second at a time, or the device waits",
    "pipeline/core/files.py": "a fifth of a second for the name in a lock",
    "pipeline/flows/progress.py": "a thread that tells the server how far a run is, which the work does not wait for",
    "pipeline/grid/local.py": "a thread that watches the workers, and processes that have ended",
    "pipeline/tracking/delivery.py": "the thread that delivers, which the work does not wait for",
    "pipeline/tracking/spool.py": "goes through `taken`",
    "pipeline/tracking/store.py": "goes through `taken`",
    "stages/ui.py": "a server that runs until a person stops it",
}
"""Files that wait otherwise, and why nobody waits for it in silence."""


def test_nothing_waits_otherwise() -> None:
    files = [path for folder in ("pipeline", "stages") for path in (REPOSITORY / folder).rglob("*.py")]
    found = {path.relative_to(REPOSITORY).as_posix() for path in files if BARE.search(path.read_text())}
    assert found == set(KNOWN)
