"""Stages as real processes, each test in a folder of its own."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipeline.core.files import file_digest
from tests.conftest import PATIENCE, REPOSITORY


@dataclass(frozen=True)
class Finished:
    """What a stage left behind on its way out."""

    code: int
    out: str
    err: str

    def expect(self, code: int, *texts: str) -> None:
        """Assert the exit code, and that stderr is one message with these texts, and nothing else.

        But for the words that a busy store takes something late, and that it has arrived.
        """
        assert self.code == code, f"exit code {self.code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.out + self.err, self.err
        if code == 0:
            return
        word = "stopped" if code == 75 else "error"
        late = ("MLflow has everything again", *(["for MLflow left in"] if code == 75 else []))
        first, *more = (line for line in self.err.splitlines() if not any(words in line for words in late))
        assert first.startswith(f"{word}: ") and all(line.startswith("  ") for line in more), self.err
        for text in texts:
            assert text in self.err, self.err


@dataclass(frozen=True)
class Workplace:
    """A folder with params.yaml and prepared data, where stages run as processes."""

    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    """All that were started here."""

    def change(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Edit its params.yaml, right or wrong."""
        path = self.folder / "params.yaml"
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def start(self, stage: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start `python -m stages.<stage>` here."""
        process = subprocess.Popen(
            [sys.executable, "-m", f"stages.{stage}", *arguments],
            cwd=self.folder,
            env=clean_environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, stage: str, *arguments: str, **environment: str) -> Finished:
        """Run a stage to its end."""
        return finish(self.start(stage, *arguments, **environment))

    def call(self, stage: str, *arguments: str, store: Path | None = None) -> Finished:
        """Run a stage to its end in this process, which has imported torch and MLflow already.

        Args:
            stage: Its module.
            arguments: Its arguments.
            store: MLflow's database, where it is another one. This process keeps open what it has opened: where a
                database was deleted since, only `run` sees that.
        """
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store or self.folder / 'mlflow.db'}")
            code = import_module(f"stages.{stage}").main(list(arguments))
        return Finished(code, out.getvalue(), err.getvalue())

    def files(self, below: str = ".") -> dict[str, str]:
        """Digest by path of every file here."""
        found = sorted(path for path in (self.folder / below).rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): file_digest(path) for path in found}

    def checkpoints(self) -> list[Path]:
        """The finished checkpoints of the only experiment, the newest last."""
        return [path.with_suffix(".pt") for path in sorted(self.folder.glob("runs/*/*/checkpoints/*.json"))]

    def weights(self, method: str) -> bytes:
        """The bytes of model.safetensors."""
        return (self.folder / f"results/digits/{method}-1/train/model.safetensors").read_bytes()


MakeWorkplace = Callable[..., Workplace]


def clean_environment() -> dict[str, str]:
    """The environment of this process, without what would lead a stage elsewhere."""
    # Bytecode is kept, whatever the machine prefers: compiling MLflow anew takes a third of a stage's start.
    # A terminal has the width that a test gives it: an import of readline, as in a worker of xdist, sets 80 columns.
    dropped = ("MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE", "COLUMNS", "LINES")
    inherited = {key: value for key, value in os.environ.items() if key not in dropped}
    return inherited | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def finish(process: subprocess.Popen[str]) -> Finished:
    """Wait for a stage to end."""
    out, err = process.communicate(timeout=PATIENCE)
    return Finished(process.returncode, out, err)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Wait until a running stage has brought about a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"the stage ended early: {finish(process)}"
        assert time.monotonic() < deadline, "the stage does not get there"
        time.sleep(0.01)


def listening(process: psutil.Process) -> set[Any]:
    """The addresses on which a process and its children wait for others."""
    family = [process, *process.children(recursive=True)]
    sockets = [one for member in family for one in member.net_connections("inet")]
    return {one.laddr for one in sockets if one.status == psutil.CONN_LISTEN}


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> Finished:
    """Send a signal, and wait for the end."""
    process.send_signal(number)
    return finish(process)


@pytest.fixture(scope="session")
def make_workplace(
    tmp_path_factory: pytest.TempPathFactory, tiny_content: dict[str, Any], prepared_digits: Path, empty_store: Path
) -> Iterator[MakeWorkplace]:
    """`make_workplace(change)`: a new folder whose params.yaml is the small one with a change."""
    places: list[Workplace] = []

    def make(change: Callable[[dict[str, Any]], Any] = lambda content: None) -> Workplace:
        place = Workplace(tmp_path_factory.mktemp("workplace"))
        places.append(place)
        content = deepcopy(tiny_content)
        content["training"]["device"] = "cpu"
        (place.folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        place.change(change)
        shutil.copytree(prepared_digits, place.folder / "data/prepared/digits")
        shutil.copy(empty_store, place.folder / "mlflow.db")
        return place

    yield make
    for process in (process for place in places for process in place.processes):
        if process.poll() is None:  # a test has failed half-way
            process.kill()
            process.wait()  # and no longer: what it has started may hold its streams


@pytest.fixture
def workplace(make_workplace: MakeWorkplace) -> Workplace:
    """A folder with the small params.yaml."""
    return make_workplace()


METHOD = "generalist_d_nt_linf"
EPOCHS = 16


def lengthen(content: dict[str, Any]) -> None:
    """One method with two learners, whose training takes several seconds, and a short evaluation."""
    content["methods"] = {METHOD: content["methods"][METHOD]}
    content["tables"], content["figures"] = {}, {}
    content["training"]["epochs"] = EPOCHS
    content["data"]["train_images"] = 320
    content["threat_model"]["linf"]["steps"] = 10
    attacks = content["evaluation"]["attacks"]
    attacks["aa_l2"] |= {"images": 4, "members": ["apgd_ce", "apgd_dlr"]}  # the others take most of the time
    del attacks["aa_linf"]
    content["evaluation"]["union"] = ["pgd20_linf", "aa_l2"]


@pytest.fixture(scope="session")
def uninterrupted(make_workplace: MakeWorkplace) -> Workplace:
    """A folder where METHOD was trained and evaluated without a stop."""
    place = make_workplace(lengthen)
    place.call("train", METHOD, "--seed", "1").expect(0)
    place.call("evaluate", METHOD, "--seed", "1").expect(0)
    return place
