"""A process whose imports are made, and that forks a child for every stage: a start takes milliseconds, not seconds.

Its children are what a person starts: a fresh interpreter state, signals as they are by default, an exit code. They run
with `faults.c` before the C library, which strikes where the environment of a child says.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PRELOADED = (
    "cv2",
    "matplotlib.pyplot",
    "mlflow",
    "mlflow.system_metrics.system_metrics_monitor",
    "mlflow.store.tracking.sqlalchemy_store",
    "pipeline.data.corruptions.generate",
    "pipeline.evaluation.evaluate",
    "pipeline.evaluation.corruption_scores",
    "pipeline.evaluation.trust",
    "pipeline.experiments.ood",
    "pipeline.reporting.tables",
    "pipeline.experiments.complete",
    "pipeline.training.loop",
    "pyarrow.parquet",
    "pyautoattack.checks",
    "sklearn.datasets",
    "stages.corrupt",
    "stages.evaluate",
    "stages.ood",
    "stages.prepare",
    "stages.tables",
    "stages.train",
)
PATIENCE = 240.0
"""Seconds that something may take to come about on a busy machine."""


@dataclass(frozen=True)
class Ended:
    """What a child left."""

    code: int
    """Exit code; negative: the signal that killed it."""
    out: str
    """What it said, errors included."""


class Host:
    """The process, while the block runs.

    Args:
        folder: For the compiled library and the logs of children.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cpu_seconds = 0.0
        """Of all children that have ended."""
        self._number = 0
        self._logs: dict[int, Path] = {}

    def __enter__(self) -> Self:
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        environment |= {
            "LD_PRELOAD": str(compile_library(self._folder)),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        command = [sys.executable, "-m", "tests.faults.host"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=self._folder
        )
        self._ask({"ready": True})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        memory: int | None = None,
    ) -> int:
        """Start `python -m MODULE ARGUMENTS` in a folder; returns the process id.

        Args:
            module: Has `main(arguments)`.
            arguments: Of the command line.
            folder: Where it runs.
            environment: See `faults.c` and `_watch`.
            memory: Bytes that it may ask the system for beyond what it has at its start.
        """
        self._number += 1
        log = self._folder / f"child-{self._number}.log"
        log.touch()  # a child may be killed before it says anything
        content = {"folder": str(folder), "log": str(log), "environment": dict(environment), "memory": memory}
        (pid,) = self._ask({"module": module, "arguments": list(arguments), **content})
        self._logs[pid] = log
        return pid

    def wait(self, pid: int) -> Ended:
        """Wait for a child to end; one that never does fails the test."""
        code, milliseconds, ended = self._ask({"wait": pid})
        self.cpu_seconds += milliseconds / 1000
        log = self._logs.pop(pid)
        out = log.read_text(errors="replace")
        log.unlink()
        assert ended, f"a child had not ended after {PATIENCE:g} s; it said: {out}"
        return Ended(code, out)

    def said(self, pid: int) -> str:
        """What a child has said so far."""
        return self._logs[pid].read_text(errors="replace")

    def _ask(self, request: Mapping[str, Any]) -> list[int]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the host has died; it said why on stderr"
        return [int(word) for word in answer.split()]


def compile_library(folder: Path) -> Path:
    """`faults.c` as a library to load before all others."""
    library = folder / "faults.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(HERE / "faults.c"), "-ldl"]
    subprocess.run(command, check=True)
    return library


def _serve() -> None:
    for name in PRELOADED:
        import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            ended = _ends(request["wait"])
            _, status, used = os.wait4(request["wait"], 0)
            milliseconds = round(1000 * (used.ru_utime + used.ru_stime))
            print(os.waitstatus_to_exitcode(status), milliseconds, int(ended), flush=True)
        elif "ready" in request:
            print(flush=True)
        else:
            pid = os.fork()
            if pid == 0:
                _live(request)
            print(pid, flush=True)


def _ends(pid: int) -> bool:
    """Whether a child ends by itself; one that does not is killed."""
    handle = os.pidfd_open(pid)
    ready, _, _ = select.select([handle], [], [], PATIENCE)
    os.close(handle)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    return bool(ready)


def _live(request: Mapping[str, Any]) -> None:
    """What a child does, which never returns."""
    code: Any = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.chdir(request["folder"])
        _watch(request["environment"])
        if request["memory"] is not None:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = used + request["memory"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        module = import_module(request["module"])
        os.environ.update(request["environment"])  # last: from here on calls count
        code = module.main(request["arguments"])
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _watch(environment: Mapping[str, str]) -> None:
    """Make a child report its work, or get an image that is no number.

    FAULTS_WORK: a file that gets a line per finished step of a training and per piece of an evaluation that is begun.
    FAULTS_NAN: the number of a learner's step (from 1) whose images are not numbers.
    """
    import torch

    from pipeline.core.progress import TrainingDisplay
    from pipeline.evaluation.journal import Journal
    from pipeline.training.learner import Learner

    read, on_step, step = Journal.read, TrainingDisplay.on_step, Learner.step
    steps = 0

    def note(line: str) -> None:
        handle = os.open(environment["FAULTS_WORK"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)

    def noted_read(self: Journal, attack: str, part: str, batch: int, images: int) -> list[int] | None:
        found = read(self, attack, part, batch, images)
        if found is None:
            note(f"piece {attack} {part} {batch}")
        return found

    def noted_step(self: TrainingDisplay, epoch: int, number: int, *others: Any) -> None:
        note(f"step {epoch} {number}")
        on_step(self, epoch, number, *others)

    def poisoned_step(self: Learner, images: torch.Tensor, *others: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == int(environment["FAULTS_NAN"]):
            images = torch.full_like(images, torch.nan)
        return step(self, images, *others)

    if "FAULTS_WORK" in environment:
        vars_of: Any = {Journal: ("read", noted_read), TrainingDisplay: ("on_step", noted_step)}
        for kind, (name, function) in vars_of.items():
            setattr(kind, name, function)
    if "FAULTS_NAN" in environment:
        setattr(Learner, "step", poisoned_step)  # noqa: B010 - mypy allows no assignment to a method


if __name__ == "__main__":
    _serve()
