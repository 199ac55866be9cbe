"""Folders with a tiny experiment in them, brought to any stage, and what counts in the end."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Experiment, load_params
from pipeline.config.composing import compose
from pipeline.core.files import file_digest
from tests.conftest import TINY
from tests.faults.host import REPOSITORY, Host

METHOD = "generalist_d_nt_linf"
STEPS = 3
"""Of an epoch."""
SETTINGS = [one for one in TINY if not one.startswith(("data.test_images", "evaluation.batch_size"))]
SETTINGS += ["training.device=cpu", "data.test_images=12", "evaluation.batch_size=4", "ood.images=4"]
RESULTS = f"results/digits/{METHOD}-1"
EXPERIMENT = (METHOD, "--seed", "1")
VOLATILE = ("seconds", "images_per_second", "checksum", "digests", "host", "git_commit")
"""What two runs may differ in: times, where it was, and the digests of files that hold times."""


@dataclass(frozen=True)
class Stage:
    """A command, what it begins with, and what it leaves."""

    name: str
    module: str
    arguments: tuple[str, ...]
    before: tuple[str, ...]
    """Paths that are there when it begins."""
    after: tuple[str, ...]
    """Paths that it makes."""
    uses_store: bool = True


PREPARED, CORRUPTED = "data/prepared/digits", "data/corrupted"
STAGES = {
    stage.name: stage
    for stage in (
        Stage("prepare", "stages.prepare", (), (), (PREPARED,), uses_store=False),
        Stage("train", "stages.train", EXPERIMENT, (PREPARED,), (f"{RESULTS}/train",)),
        Stage("evaluate", "stages.evaluate", EXPERIMENT, (PREPARED, f"{RESULTS}/train"), (f"{RESULTS}/evaluate",)),
        Stage("experiment", "tests.faults.complete", (), (), (PREPARED, RESULTS)),
        Stage("corrupt", "stages.corrupt", ("--processes", "1"), (PREPARED,), (CORRUPTED,), uses_store=False),
        Stage("ood", "stages.ood", EXPERIMENT, (PREPARED, CORRUPTED, f"{RESULTS}/train"), (f"{RESULTS}/ood",)),
        Stage("tables", "stages.tables", (), (PREPARED, "results"), ("reports/digits/small_cnn/tables",)),
    )
}


def content() -> dict[str, Any]:
    """A params.yaml whose stages take a second or two."""
    made: dict[str, Any] = yaml.safe_load(compose(SETTINGS, REPOSITORY / "conf"))
    attacks = made["evaluation"]["attacks"]
    weak = {"epsilon": 0.02}  # on a network that is hardly trained, so that some images stay robust
    short = {**deepcopy(attacks["aa_linf"]), "images": 4, "members": ["apgd_ce", "apgd_t"], **weak}
    made["evaluation"]["attacks"] = {"pgd20_linf": {**attacks["pgd20_linf"], **weak}, "aa_linf": short}
    made["evaluation"]["union"] = ["pgd20_linf", "aa_linf"]
    made["methods"] = {METHOD: made["methods"][METHOD]}
    columns = [{"metric": name, "label": name} for name in ("natural", "pgd20_linf", "aa_linf")]
    made["tables"] = {"table1": {**made["tables"]["table1"], "rows": [METHOD], "columns": columns}}
    made["figures"], made["ablation"]["studies"] = {}, {}
    return made


@dataclass(frozen=True)
class Place:
    """A folder where a stage runs."""

    folder: Path
    work: Path
    """Where children write what they have done."""

    @cached_property
    def experiment(self) -> Experiment:
        """The only one."""
        return load_params(self.folder / "params.yaml").experiment(METHOD, 1)

    @property
    def working_folder(self) -> Path:
        """Of checkpoints and journals."""
        return self.folder / "runs" / self.experiment.fingerprint

    def results(self, stage: Stage) -> dict[str, Any]:
        """What a stage has left: by path a digest, or the content without what may differ; and its run in MLflow."""
        found: dict[str, Any] = {}
        for root in stage.after:
            for path in sorted((self.folder / root).rglob("*")):
                if path.is_file() and path.name != ".lock" and path.suffix not in (".pdf", ".png", ".svg"):
                    found[str(path.relative_to(self.folder))] = _content(path)
        if stage.uses_store:
            found["mlflow"] = store(self.folder / "mlflow.db")
        return found

    def whole(self) -> dict[str, str]:
        """Digest by path of all finished work: checkpoints with their digests, journal pieces, results."""
        kept = ("runs/*/*/checkpoints/*", "runs/*/*/evaluation/*/*/*", "results/**/*", "data/**/*")
        paths = {path for pattern in kept for path in self.folder.glob(pattern) if path.is_file()}
        return {
            str(path.relative_to(self.folder)): file_digest(path)
            for path in paths
            if not path.name.startswith(".") and path.name != "lock"
        }

    def done(self) -> list[str]:
        """Steps and pieces that children have worked on, in their order."""
        return self.work.read_text().splitlines() if self.work.exists() else []


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _stable(json.loads(path.read_text()))
    return file_digest(path)


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in VOLATILE}
    return [_stable(item) for item in value] if isinstance(value, list) else value


def store(database: Path) -> dict[str, Any]:
    """What MLflow's store says: ends of runs, their marks, and every number but times and the machine's."""
    connection = sqlite3.connect(database)
    try:
        numbers = connection.execute("select distinct key, step, value from metrics").fetchall()
        marks = ("evaluated", "trained", "weights_sha256", "evaluation_fingerprint", "ood_fingerprint")
        tags = connection.execute("select key, value from tags").fetchall()
        ends = connection.execute("select status from runs").fetchall()
    finally:
        connection.close()
    return {
        "ends": sorted(status for (status,) in ends),
        "marks": sorted(tag for tag in tags if tag[0] in marks),
        "numbers": sorted(row for row in numbers if not row[0].startswith("system/") and "second" not in row[0]),
    }


class Workshop:
    """Makes places at the beginning of any stage, from one whole run that nothing disturbed.

    Args:
        folder: For all places.
        host: Runs the stages.
    """

    def __init__(self, folder: Path, host: Host) -> None:
        self.host = host
        self._folder = folder
        self._number = 0
        self.expected: dict[str, dict[str, Any]] = {}
        """Results by stage."""
        self.seconds: dict[str, float] = {}
        """How long each stage took."""
        self.calls: dict[str, list[tuple[str, str]]] = {}
        """Calls by which each stage changed the disk: name and path below its folder."""
        self.work: dict[str, list[str]] = {}
        """Steps and pieces that each stage went through."""
        self._sizes: dict[str, dict[str, int]] = {}
        self._begin()

    def place(self, stage: str) -> Place:
        """A new folder where a stage can begin."""
        self._number += 1
        made = Place(self._folder / f"place-{self._number}", self._folder / f"work-{self._number}")
        made.folder.mkdir()
        for path in ("params.yaml", "mlflow.db"):
            shutil.copy(self._reference / path, made.folder)
        for path in STAGES[stage].before:
            shutil.copytree(self._reference / path, made.folder / path, dirs_exist_ok=True)
        return made

    def written(self, stage: str, folder: str) -> int:
        """Bytes that were in a folder when an undisturbed stage had ended."""
        return self._sizes[stage][folder]

    def remove(self, place: Place) -> None:
        """Of a place that gave what it should."""
        shutil.rmtree(place.folder)
        place.work.unlink(missing_ok=True)

    @cached_property
    def finished(self) -> Place:
        """A folder where every stage has ended; whoever harms it mends it."""
        return Place(self._reference, self._folder / "work")

    @cached_property
    def _reference(self) -> Path:
        """A folder that gathers what undisturbed stages have left."""
        from mlflow import MlflowClient

        folder = self._folder / "reference"
        folder.mkdir()
        (folder / "params.yaml").write_text(yaml.safe_dump(content(), sort_keys=False))
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return folder

    def _begin(self) -> None:
        for name in ("prepare", "train", "evaluate", "corrupt", "ood", "tables", "experiment"):
            self._run(STAGES[name])

    def _run(self, stage: Stage) -> None:
        place, trace = self.place(stage.name), self._folder / "trace"
        started = time.monotonic()
        environment = {"FAULTS_FOLDER": str(place.folder), "FAULTS_TRACE": str(trace), "FAULTS_WORK": str(place.work)}
        ended = self.host.wait(self.host.start(stage.module, stage.arguments, place.folder, environment))
        assert ended.code == 0, ended.out
        self.seconds[stage.name] = time.monotonic() - started
        lines = trace.read_text().splitlines()
        trace.unlink()
        calls = [line.split("\t") for line in lines]
        self.calls[stage.name] = [(call, str(Path(path).relative_to(place.folder))) for call, path in calls]
        self.work[stage.name] = place.done()
        self._sizes[stage.name] = {path.name: _size(path) for path in place.folder.iterdir()}
        self.expected[stage.name] = place.results(stage)
        if stage.name != "experiment":
            for path in stage.after:
                shutil.copytree(place.folder / path, self._reference / path, dirs_exist_ok=True)
        self.remove(place)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
