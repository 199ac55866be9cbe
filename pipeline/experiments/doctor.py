"""What is wrong, or soon will be, with this machine and this checkout, each with the way out."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pipeline.config import Params
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.machine import free_memory
from pipeline.core.surroundings import remarks

FREE_DISK = 5.0
"""Gibibytes below which checkpoints and the store may not fit."""
FREE_MEMORY = 2.0
"""Gibibytes that a training on images of CIFAR-10's size needs (measured: benchmarks/results/memory.json)."""
GIBIBYTE = 2**30
PREFECT_PATIENCE = 5.0
"""Seconds that a Prefect server may take to answer."""

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    status: Status
    """'note': something is missing that only some commands need; 'problem': work here will fail or be wrong."""
    text: str
    fix: str = ""
    """The way out; "" where there is nothing to do."""


def examine(params: Params) -> Iterator[Finding]:
    """Look at everything; each finding comes as soon as it is made."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _installation,
        _pins,
        _requirements,
        _surroundings,
        lambda: _settings(params),
        _links,
        lambda: _space(Path.cwd()),
        lambda: _devices(params),
        lambda: _data(params),
        _store,
        _prefect,
        _commit,
        _dvc,
        _programs,
    ]
    for check in checks:
        yield from check()


def _judged(subject: str, good: str, wrong: str = "", fix: str = "", status: Status = "problem") -> Finding:
    """What was looked at: good, unless something is said to be wrong."""
    return Finding(subject, status, wrong, fix) if wrong else Finding(subject, "ok", good)


def _python() -> Iterator[Finding]:
    text = f"{platform.python_version()} on {platform.platform()}"
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield _judged("Python", text, "" if supported else text, "make PYTHON=/path/to/python3.11 setup")
    if "%" in sys.prefix:
        text = f"{sys.prefix} has a '%' in its name, below which MLflow makes no database"
        yield Finding("Packages' folder", "problem", text, "rename that folder, then make setup")


def _installation(folder: Path = Path(".venv/bin")) -> Iterator[Finding]:
    """A checkout that was moved or copied after its installation: what lies in .venv names the former place."""
    mark = folder / ".installed"
    if not mark.exists():
        return
    place = mark.read_text().strip()
    wrong = f".venv was made in {place or 'another folder'}: its commands start nothing, or what is there"
    yield _judged("Installation", f"was made here, in {place}", "" if place == os.getcwd() else wrong, "make setup")


def _pins(path: Path = Path("constraints.txt")) -> Iterator[Finding]:
    """Packages in other versions than those that the project is tested with."""
    lines = path.read_text().splitlines() if path.exists() else []
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    different = []
    for name, wanted in pins.items():
        try:
            found = version(name).partition("+")[0]
        except PackageNotFoundError:
            found = "missing"
        if found != wanted:
            different.append(f"{name} {found} (tested: {wanted})")
    if not pins:
        yield Finding("Packages", "note", f"{path} is not here: versions are not compared", "run from the checkout")
        return
    good = f"{len(pins)} packages in the versions that were tested together"
    yield _judged("Packages", good, ", ".join(different), "rm .venv/.installed && make setup", "note")


def _requirements() -> Iterator[Finding]:
    """Packages that do not go together, by their own statements."""
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wrong = "; ".join((result.stdout or result.stderr).splitlines()) if result.returncode else ""
    good = "all requirements of all packages are met"
    yield _judged("Dependencies", good, wrong, "rm .venv/.installed && make setup")


def _surroundings() -> Iterator[Finding]:
    found = list(remarks())
    for text, fix in found:
        yield Finding("Environment", "note", text, fix)
    if not found:
        yield Finding("Environment", "ok", "nothing in it leads the project elsewhere")


def _settings(params: Params) -> Iterator[Finding]:
    """What is wrong in `params.yaml` though each section is right; the rest is refused when it is read."""
    from pipeline.reporting.drawing import check_figures

    named: dict[str, list[str]] = {}
    for one in params.experiments():
        named.setdefault(one.fingerprint, []).append(one.identifier)
    try:
        check_figures(params)
        yield Finding("Settings", "ok", f"{params.suite}: {len(named)} experiments, {len(params.figures)} figures")
    except RequestError as error:
        yield Finding("Settings", "problem", str(error), "correct params.yaml")
    for same in (names for names in named.values() if len(names) > 1):
        yield Finding("Equal settings", "note", f"{' and '.join(same)}: one is trained, the others take its result")


def _links(folder: Path = Path()) -> Iterator[Finding]:
    """Folders that grow may be links to another disk."""
    for link in (folder / name for name in ("data", "results", "runs", "mlartifacts")):
        if link.is_symlink() and not link.is_dir():
            text = f"is a link to {os.readlink(link)}, where there is no folder"
            yield Finding(f"{link}", "problem", text, f"mount that disk, or mkdir --parents {os.readlink(link)}")


def _space(folder: Path) -> Iterator[Finding]:
    disk, memory = shutil.disk_usage(folder).free / GIBIBYTE, free_memory() / GIBIBYTE
    if os.access(folder, os.W_OK):
        little = f"{disk:.1f} GiB free, less than {FREE_DISK:g}" if disk < FREE_DISK else ""
        yield _judged("Disk", f"{disk:.0f} GiB free", little, "free some; make clean")
    else:
        yield Finding("Disk", "problem", f"{folder} cannot be written to", "check its owner and mode")
    little = f"{memory:.1f} GiB available, less than {FREE_MEMORY:g}" if memory < FREE_MEMORY else ""
    fix = "end other programs, or set training.batch_size lower"
    known = f"{memory:.0f} GiB available" if memory < math.inf else "the system does not tell"
    yield _judged("Memory", known, little, fix)


def _devices(params: Params) -> Iterator[Finding]:
    import torch

    from pipeline.core.devices import choose_backend

    try:
        backend = choose_backend(params.training.device, params.training.precision, params.training.threads)
    except RequestError as error:
        yield Finding("Device", "problem", str(error), "set training.device in params.yaml")
        return
    cuda = backend.device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    arithmetic = "bfloat16" if backend.bfloat16 else "float32"
    text = f"{name}; training steps in {arithmetic} (training.precision {params.training.precision})"
    yield Finding("Device", "ok", text)
    driver = shutil.which("nvidia-smi")
    if driver and not torch.cuda.is_available():
        text = f"{driver} is here, but torch {torch.__version__} sees no CUDA device"
        yield Finding("CUDA", "problem", text, "install the torch build of this driver, see pytorch.org/get-started")


def _data(params: Params) -> Iterator[Finding]:
    from pipeline.data.split import open_split
    from pipeline.provenance.folders import prepared_folder

    folder, name = prepared_folder(params.data.name), params.data.name
    if not folder.exists():
        yield Finding("Data", "note", f"{name} is not prepared", "make prepare")
        return
    try:
        split = open_split(folder, params.data)
    except RequestError as error:
        yield Finding("Data", "problem", str(error), "make prepare")
        return
    held_out = params.data.held_out_images
    counts = f"{split.counts['train']} training, {held_out} held-out, {split.counts['test']} test images"
    yield Finding("Data", "ok", f"{name}: {counts}, digest {split.digest[:16]}")


def _store() -> Iterator[Finding]:
    from pipeline.tracking import count_left, deleted_suites, describe_store, lost_runs
    from pipeline.tracking.home import WAY_OUT

    try:
        yield Finding("MLflow", "ok", describe_store())
        if lost := lost_runs():
            yield Finding("Artifacts", "problem", f"the files of {len(lost)} runs are not beside the store", WAY_OUT)
        for suite, number in deleted_suites().items():
            text = f"that of suite {suite} was deleted: its runs are not shown, and new ones cannot be logged"
            fix = f"mlflow experiments restore --experiment-id {number}, or mlflow gc"
            yield Finding("MLflow's experiment", "problem", text, fix)
    except PipelineError as error:
        yield Finding("MLflow", "problem", str(error))
    if left := count_left():
        text = "1 waits to be delivered" if left == 1 else f"{left} wait to be delivered"
        yield Finding("Records for MLflow", "note", text, "python -m stages.deliver")


def _prefect() -> Iterator[Finding]:
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        yield Finding("Prefect", "ok", "no server is named (PREFECT_API_URL): 'make ablation' starts one of its own")
        return
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=PREFECT_PATIENCE) as answer:
            healthy = json.load(answer) is True
    except (OSError, ValueError) as error:
        text, fix = f"{url} does not answer ({error})", "prefect server start, or unset PREFECT_API_URL"
        yield Finding("Prefect", "problem", text, fix)
        return
    yield _judged("Prefect", f"{url} is healthy", "" if healthy else f"{url} is not healthy")


def _commit() -> Iterator[Finding]:
    from pipeline.provenance.commit import git_commit

    commit = git_commit()
    wrong = "this folder is no git repository of its own: results name no commit, only digests of their code"
    fix = "git init && git add --all && git commit --message 'as unpacked'"
    yield _judged("Commit", commit, wrong if commit == "unknown" else "", fix, "note")


def _dvc() -> Iterator[Finding]:
    if not Path(".dvc").is_dir():
        text = "this folder is no DVC repository: stages run, 'dvc repro' does not"
        yield Finding("DVC", "note", text, "dvc init --no-scm")
        return
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        changed = json.loads(result.stdout)
    except ValueError:
        yield Finding("DVC", "problem", (result.stderr or result.stdout).strip(), "dvc doctor")
        return
    wrong = f"{len(changed)} stages are not up to date" if changed else ""
    yield _judged("DVC", "every stage is up to date", wrong, "make repro", "note")


def _programs() -> Iterator[Finding]:
    needed = {
        "pdflatex": "the tables as PDF",
        "chromium": "the tests of the HTML report",
        "git": "the commit of results",
    }
    for program, purpose in needed.items():
        place = shutil.which(program)
        wrong = "" if place else f"is missing; it makes {purpose}"
        yield _judged(program, str(place), wrong, "make setup, as root on Debian", "note")
