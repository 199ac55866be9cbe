"""Run a request in this process or in one of its own, and look at what it left."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import io
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import pipeline
from benchmarks.bad_input.cases import Accepted, Case, Outcome
from pipeline.config.reading import load_params

REPOSITORY = Path(__file__).resolve().parents[2]
HUNG = 60.0
"""Seconds after which a request that waits for something is given up."""
NOWHERE = "http://127.0.0.1:9"
"""A port on which nobody listens: downloads must fail at once, and never succeed."""
ENVIRONMENT = {
    **dict.fromkeys(["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"], NOWHERE),
    "no_proxy": "127.0.0.1,localhost",
    "PYTHONPATH": str(REPOSITORY),
    "OMP_NUM_THREADS": "1",
}
WORK = {
    "params": ("pipeline.config.load_params", "pipeline.grid.settings.load_params"),
    "train": ("pipeline.devices.choose_backend",),
    "attack": ("pipeline.evaluation.evaluate.Evaluation.run",),
    "evaluate": ("pipeline.data.split.open_split",),
}
"""By what a request is about: the first step that only one which was accepted reaches."""
PROCESS_SECONDS = 10.0
"""Of the processor, for a process with its imports: torch alone takes a second where nothing else runs."""
Listing = dict[str, tuple[Any, ...]]


def import_all() -> None:
    """Import what stages import when they need it: patches must not be bound by imports, nor imports be timed."""
    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        if not module.name.startswith("pipeline.flows"):
            importlib.import_module(module.name)


def listing(folder: Path) -> Listing:
    """Every file and link below a folder, with what changes when it is written or replaced."""
    found: Listing = {}
    for root, folders, files in os.walk(folder):
        for name in files + [name for name in folders if os.path.islink(os.path.join(root, name))]:
            path = os.path.join(root, name)
            status = os.lstat(path)
            if name.endswith("lock") and status.st_size == 0:
                continue  # of nobody: the next process takes it
            found[os.path.relpath(path, folder)] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)
    return found


def changes(before: Listing, after: Listing, allowed: str | None) -> tuple[str, ...]:
    """Paths that differ, without those below `allowed`."""
    different = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return tuple(path for path in different if allowed is None or not path.startswith(allowed))


@contextlib.contextmanager
def place(case: Case) -> Iterator[tuple[Path, Path]]:
    """A new folder with the files of a case: what is watched, and the folder within it where the stage runs."""
    with tempfile.TemporaryDirectory(prefix="bad-input-") as name:
        watched = Path(name).resolve()
        folder = watched / "outer" / "work"  # links and archives that lead out of it end where it is seen
        folder.mkdir(parents=True)
        case.prepare(folder)
        yield watched, folder


def run_here(case: Case, until: str | None) -> Outcome:
    """Call the stage's `main` in this process.

    Args:
        case: The request.
        until: A key of `WORK`: what is accepted is stopped there; None: nothing is.
    """
    # urllib keeps the proxies that it saw first for the whole process, in both directions.
    no_opener = patch("urllib.request._opener", None)
    with place(case) as (watched, folder), patch.dict(os.environ, ENVIRONMENT), no_opener, contextlib.chdir(folder):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        main = importlib.import_module(f"stages.{case.stage}").main
        before, said = listing(watched), io.BytesIO()
        errors = io.TextIOWrapper(said, "utf-8", "backslashreplace")
        wall, cpu = time.perf_counter(), _cpu_seconds()
        with _stopped(until), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code, accepted, trace = _call(main, case)
        cpu, wall = _cpu_seconds() - cpu, time.perf_counter() - wall
        errors.flush()
        message = said.getvalue().decode()
        valid = accepted is not None and case.is_valid(folder, accepted.accepted)
        written = changes(before, listing(watched), case.may_write and f"outer/work/{case.may_write}")
    return Outcome(case, code, message, valid, trace, () if valid else written, cpu, wall)


def _call(main: Any, case: Case) -> tuple[int | None, Accepted | None, str]:
    """Exit code, what was accepted, traceback."""
    try:
        with _alarm():
            code = main(list(case.arguments))
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1, None, ""
    except Accepted as accepted:
        return None, accepted, ""
    except BaseException:
        return 1, None, traceback.format_exc()
    return (None, Accepted(), "") if code == 0 else (code, None, "")


def _cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    """Raise TimeoutError in what waits for ever."""

    def hung(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"nothing happened within {HUNG:g} s")

    previous = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, HUNG)
    faulthandler.dump_traceback_later(2 * HUNG, exit=True, file=sys.__stderr__ or sys.stderr)  # C sees no signal
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def _stopped(until: str | None) -> Iterator[None]:
    """Let the first step of the work itself raise `Accepted`."""

    def first_step(*arguments: Any, **named: Any) -> Any:
        raise Accepted

    def checked(path: Path) -> Any:
        raise Accepted(load_params(path))

    with contextlib.ExitStack() as patches:
        for name in WORK.get(until or "", ()):
            patches.enter_context(patch(name, checked if until == "params" else first_step))
        yield


def run_apart(case: Case) -> Outcome:
    """Run `python -m stages.<stage>`, imports included; only for requests that are known to be refused."""
    with place(case) as (watched, folder):
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"} | ENVIRONMENT
        before, wall, cpu = listing(watched), time.perf_counter(), _cpu_seconds()
        finished = subprocess.run(
            [sys.executable, "-m", f"stages.{case.stage}", *case.arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        cpu, wall = _cpu_seconds() - cpu, time.perf_counter() - wall
        written = changes(before, listing(watched), case.may_write and f"outer/work/{case.may_write}")
    message = finished.stderr.decode(errors="backslashreplace")
    trace = message if "Traceback" in message else ""
    return Outcome(
        case,
        finished.returncode,
        message,
        traceback=trace,
        written=written,
        cpu_seconds=cpu,
        wall_seconds=wall,
        allowed_seconds=PROCESS_SECONDS,
    )
