"""MLflow: one run per experiment, found again by its fingerprint.

This is the only module that imports mlflow, and it does so when a run is opened or read, not before.

A run's tags `evaluated` and `evaluation_fingerprint` say which numbers it holds, whatever its status: a run that is
trained or evaluated again is open meanwhile, and what it held before stays valid until its replacement begins.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from ssl import SSLError
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import pandas as pd
from filelock import FileLock

from pipeline.config import OOD_METRICS, TRAINING_SECONDS, Experiment
from pipeline.errors import Interrupted, PipelineError, RequestError
from pipeline.provenance import git_commit

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from torch import nn

DEFAULT_URI = "sqlite:///mlflow.db"
USER_INTERFACE = "http://127.0.0.1:5000"
"""Where `make ui` shows a store that is a database."""
SQLITE = "sqlite:///"
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
PATIENCE = 5.0
"""Seconds that a server may take to answer at all; afterwards MLflow's own, longer patience holds."""
DATABASE_PATIENCE = 20.0
"""Seconds that another process may lock a sqlite file: what MLflow itself waits."""
BATCH = {"metrics": 1000, "params": 100}
"""MLflow's limits for one call."""
PARAMETER_LENGTH = 500
PAGE = 50
"""Runs in memory at a time while searching: MLflow makes objects of all their parameters and metrics."""
TAG_LENGTH = 4000
DIGEST_LENGTH = 32
"""MLflow takes digests of up to 36 characters; the tag `data_digest` has the whole one."""
ARTIFACTS_AT_A_TIME = 8
# MLflow reads these when it is imported, which happens later; what the user has set stays.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

T = TypeVar("T")
RUN_COLUMNS = ["fingerprint", "evaluation_fingerprint", "method", "seed", "protocol", "suite", "run_id", "end_time"]


@dataclass(frozen=True)
class DataDescription:
    """Which images an experiment works on."""

    name: str
    digest: str
    """sha256 of the prepared data set, hexadecimal."""
    counts: Mapping[str, int]
    """Number of images by split."""


def tracking_uri() -> str:
    """Where runs are kept: `MLFLOW_TRACKING_URI`, or `mlflow.db` in the current folder; sqlite paths made absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return f"{SQLITE}{_database(uri).absolute()}" if uri.startswith(SQLITE) else uri


@contextmanager
def track(experiment: Experiment, data: DataDescription) -> Iterator[TrackedRun]:
    """Start or continue the run of `experiment`, with system metrics while it is open.

    A block that ends well leaves the run FINISHED, one that is stopped on demand KILLED, one that fails FAILED.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        PipelineError: the store is out of reach or refuses what it is told.
    """
    with _opened(experiment, data, git_commit()) as run, run.system_metrics():
        yield run


@contextmanager
def _opened(experiment: Experiment, data: DataDescription, commit: str) -> Iterator[TrackedRun]:
    run = _start(tracking_uri(), experiment, data, commit)
    try:
        yield run
    except BaseException as error:
        try:
            run.close("KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED")
        except PipelineError as unreachable:
            error.add_note(str(unreachable))  # what stopped the block is what the person must learn first
        raise
    run.close("FINISHED")


@dataclass(frozen=True)
class TrackedRun:
    """An open run. Every method raises `PipelineError` when the store is out of reach or refuses."""

    client: MlflowClient
    uri: str
    run_id: str

    def log_epoch(self, record: Mapping[str, float]) -> None:
        """Log the history's row of one epoch in one call, at step `record["epoch"]`.

        Where a run that was killed repeats an epoch, the same values are logged at the same step again.
        """
        self._log_metrics(_metrics(record, int(record["epoch"])))

    def log_training(self, folder: Path) -> None:
        """Log what `train` left in `folder`, and those epochs that a kill kept from being logged.

        Weights that differ from those that the run had take the marks off it that it is evaluated, and on which
        corrupted images.
        """
        summary = _flatten(_read(folder / "summary.json"))
        with _reported(self.uri):
            logged = {metric.step for metric in self.client.get_metric_history(self.run_id, "epoch")}
            tags = self.client.get_run(self.run_id).data.tags
        if tags.get("weights_sha256") != summary["weights_sha256"]:
            self._withdraw("evaluated", "ood_fingerprint")
        history = [record for record in _read(folder / "history.json") if record["epoch"] not in logged]
        numbers = {f"summary/{key}": value for key, value in summary.items() if isinstance(value, int | float)}
        self._log_metrics([metric for record in history for metric in _metrics(record, int(record["epoch"]))])
        self._log_metrics(_metrics(numbers, 0))
        self._log_files(folder, "history.json", "model.safetensors", "summary.json")
        texts = {key: value for key, value in summary.items() if isinstance(value, str) and key != "git_commit"}
        self._set_tags({**texts, **_commit_tags(summary["git_commit"]), "trained": "true"})

    def log_evaluation(self, folder: Path) -> None:
        """Log what `evaluate` left in `folder`: metrics `test/...` with the ends of their intervals, `test_low/...` and
        `test_high/...`, numbers of images `test_images/...`, verdicts, accuracies by class, signs of masking.

        Until all of it is there, the run is not marked as evaluated."""
        content = _read(folder / "metrics.json")
        self._withdraw("evaluated")
        self._log_metrics(_metrics({f"test/{name}": value for name, value in content["metrics"].items()}, 0))
        self._log_metrics(_metrics({f"test_images/{name}": count for name, count in content["counts"].items()}, 0))
        for end, place in (("low", 0), ("high", 1)):
            ends = {f"test_{end}/{name}": interval[place] for name, interval in content["intervals"].items()}
            self._log_metrics(_metrics(ends, 0))
        self._log_files(folder, "verdicts.parquet", "metrics.json", "classes.csv", "trust.json")
        suspicious = _read(folder / "trust.json")["suspicious"]
        tags = {"evaluation_fingerprint": content["evaluation_fingerprint"], "evaluated": "true"}
        self._set_tags({**tags, "gradient_masking": "suspected" if suspicious else "no sign"})

    def log_ood(self, folder: Path) -> None:
        """Log what `stages.ood` left in `folder`: metrics `ood/...`, the accuracies behind them, what was corrupted.

        Until all of it is there, the run is not marked as measured on corrupted images."""
        content = _read(folder / "metrics.json")
        self._withdraw("ood_fingerprint")
        numbers = {f"ood/{name}": value for name, value in content["metrics"].items()}
        self._log_metrics(_metrics({**numbers, "ood/images": content["images"]}, 0))
        self._log_files(folder, "corruptions.csv", "perturbations.csv")
        provenance = ", ".join(f"{kind} {value}" for kind, value in content["provenance"].items())
        self._set_tags({"ood_fingerprint": content["ood_fingerprint"], "ood_provenance": provenance})

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Sample the use of CPU, memory, disk, network and GPUs meanwhile, every ten seconds."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with _reported(self.uri):
            kind: Any = SystemMetricsMonitor
            monitor = kind(self.run_id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def close(self, status: str) -> None:
        """End the run: FINISHED, KILLED or FAILED."""
        with _reported(self.uri):
            self.client.set_terminated(self.run_id, status)

    def describe(self, experiment: Experiment, data: DataDescription) -> None:
        """Log what the experiment is: tags, data set, settings, and those parameters that the run does not have yet."""
        from mlflow.entities import Param

        with _reported(self.uri):
            known = self.client.get_run(self.run_id).data.params
            params = [Param(key, value) for key, value in _parameters(experiment).items() if key not in known]
            for start in range(0, len(params), BATCH["params"]):
                self.client.log_batch(self.run_id, params=params[start : start + BATCH["params"]])
            self.client.log_inputs(self.run_id, [_dataset_input(data)])
            self.client.log_dict(self.run_id, experiment.model_dump(mode="json"), "experiment.json")
        self._set_tags(_tags(experiment, data))

    def _log_metrics(self, metrics: list[Metric]) -> None:
        with _reported(self.uri):
            for start in range(0, len(metrics), BATCH["metrics"]):
                self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH["metrics"]])

    def _log_files(self, folder: Path, *names: str) -> None:
        with _reported(self.uri):
            for name in names:
                self.client.log_artifact(self.run_id, str(folder / name))

    def _withdraw(self, *names: str) -> None:
        """Delete those of the tags that are there: numbers are about to change, and a stop in between must show."""
        with _reported(self.uri):
            tags = self.client.get_run(self.run_id).data.tags
            for name in names:
                if name in tags:
                    self.client.delete_tag(self.run_id, name)

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with _reported(self.uri):
            self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def ensure_logged(experiment: Experiment, directory: Path) -> bool:
    """Log an experiment from its files, where they are of this experiment and MLflow does not have it evaluated yet.

    This is how results reach MLflow that DVC restored from its cache.

    Args:
        experiment: What the files must belong to; files of other settings are left alone.
        directory: `results/<suite>/<method>-<seed>`, with `train` and `evaluate` in it.

    Returns:
        Whether something was logged.

    Raises:
        RequestError, PipelineError: as `track`.
    """
    train, evaluate = directory / "train", directory / "evaluate"
    if not (train / "summary.json").exists() or not (evaluate / "metrics.json").exists():
        return False
    summary, evaluation = _read(train / "summary.json"), _read(evaluate / "metrics.json")
    wanted = (experiment.fingerprint, experiment.evaluation_fingerprint)
    if (summary["fingerprint"], evaluation["evaluation_fingerprint"]) != wanted or _is_evaluated(experiment):
        return False
    data = DataDescription(experiment.data.name, summary["data_digest"], {"test": evaluation["counts"]["natural"]})
    with _opened(experiment, data, summary["git_commit"]) as run:
        run.log_training(train)
        run.log_evaluation(evaluate)
    return True


def ensure_ood_logged(experiment: Experiment, folder: Path) -> bool:
    """Log accuracies on corrupted images from their files, where MLflow has the same weights and not these numbers.

    Args:
        experiment: What the files must belong to; files of other settings or weights are left alone.
        folder: What `pipeline.ood.measure_ood` left.

    Returns:
        Whether something was logged.

    Raises:
        RequestError, PipelineError: as `track`.
    """
    uri, path = tracking_uri(), folder / "metrics.json"
    if not path.exists() or _is_absent(uri):
        return False
    content = _read(path)
    if content["ood_fingerprint"] != experiment.ood_fingerprint:
        return False
    with _reported(uri):
        run = _run_of(uri, experiment)
        if run is None or _has_ood(experiment, run):
            return False
        if run.data.tags.get("weights_sha256") != content.get("weights_sha256"):
            return False
        client, _ = _open_store(uri, experiment.suite, create=False)
    TrackedRun(client, uri, run.info.run_id).log_ood(folder)
    return True


def _is_evaluated(experiment: Experiment) -> bool:
    uri = tracking_uri()
    condition = (
        f"tags.evaluated = 'true' and tags.fingerprint = '{experiment.fingerprint}' "
        f"and tags.evaluation_fingerprint = '{experiment.evaluation_fingerprint}'"
    )
    with _reported(uri):
        client, experiment_id = _open_store(uri, experiment.suite, create=False)
        return experiment_id is not None and next(_search(client, experiment_id, condition), None) is not None


def evaluated(experiments: Iterable[Experiment]) -> set[str]:
    """Evaluation fingerprints of those of `experiments` that MLflow has the numbers of; none where there is no store.

    Raises:
        RequestError, PipelineError: as `track`.
    """
    uri = tracking_uri()
    if _is_absent(uri):
        return set()
    return set(finished_runs(experiments)["evaluation_fingerprint"])


def last_epoch(experiment: Experiment) -> int:
    """The last epoch of an experiment that MLflow knows of, 0 where it knows none.

    Raises:
        RequestError, PipelineError: as `track`.
    """
    uri = tracking_uri()
    with _reported(uri):
        run = _run_of(uri, experiment)
    return 0 if run is None else int(run.data.metrics.get("epoch", 0))


def mark_failed(experiment: Experiment, reason: str) -> None:
    """End the run of an experiment that is given up, if there is one: FAILED, with the reason as its tag `failure`.

    Raises:
        RequestError, PipelineError: as `track`.
    """
    uri = tracking_uri()
    with _reported(uri):
        run = _run_of(uri, experiment)
        if run is not None:
            client, _ = _open_store(uri, experiment.suite, create=False)
            client.set_tag(run.info.run_id, "failure", reason[-TAG_LENGTH:])
            client.set_terminated(run.info.run_id, "FAILED")


def _run_of(uri: str, experiment: Experiment) -> Run | None:
    client, experiment_id = _open_store(uri, experiment.suite, create=False)
    if experiment_id is None:
        return None
    return next(_search(client, experiment_id, f"tags.fingerprint = '{experiment.fingerprint}'"), None)


def finished_runs(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """The runs that hold the numbers of `experiments`: same fingerprint, same evaluation fingerprint, evaluated.

    Returns:
        One row per run and experiment (several where an experiment was run on several machines), the latest last:
        fingerprint, evaluation_fingerprint, method, seed, protocol, suite, run_id, gradient_masking, end_time (UTC),
        page (where MLflow's web interface shows the run),
        `metric.<name>` (accuracies in [0, 1], seconds of training) and `count.<name>` (number of images).

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        PipelineError: the store does not exist or is out of reach.
    """
    tags = ("fingerprint", "evaluation_fingerprint")
    return _evaluated_runs(experiments, tags, lambda item: (item.fingerprint, item.evaluation_fingerprint))


def runs_of_other_protocols(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """Evaluated runs of the same methods, seeds, data and networks as `experiments`, under another protocol.

    Returns:
        As `finished_runs`; `fingerprint` and `evaluation_fingerprint` are of the experiment that a run stands in for,
        `protocol` is the run's, and `same_attacks` says whether it was evaluated as the experiment is. Corrupted images
        are left out: their metrics belong to one experiment's weights.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    tags = ("method", "seed", "dataset", "architecture")
    wanted = list(experiments)
    own = {item.protocol for item in wanted}
    frame = _evaluated_runs(wanted, tags, lambda item: (item.name, str(item.seed), item.data.name, item.architecture))
    return frame[~frame["protocol"].isin(own)]


@dataclass(frozen=True)
class StoredRun:
    """A run as the store has it."""

    run_id: str
    status: str
    ended: str
    """UTC, ISO 8601 to the second; "" while it is open."""
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """The last value of each."""


def read_run(run_id: str) -> StoredRun:
    """One run.

    Raises:
        RequestError: the store has no such run, or it is not one of this project.
        PipelineError: the store does not exist or is out of reach.
    """
    uri = tracking_uri()
    _require_store(uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with _reported(uri):
        try:
            run = MlflowClient(tracking_uri=uri).get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RequestError(f"MLflow at {mask(uri)} has no run '{run_id}'") from None
    if "suite" not in run.data.tags:
        raise RequestError(f"run {run_id} of MLflow at {mask(uri)} is not one of this project: it has no tag 'suite'")
    end = run.info.end_time
    ended = "" if end is None else pd.Timestamp(end, unit="ms").strftime("%Y-%m-%dT%H:%M:%SZ")
    return StoredRun(run.info.run_id, run.info.status, ended, run.data.tags, run.data.metrics)


def read_experiment(run: StoredRun) -> Experiment:
    """The settings that gave an evaluated run its numbers.

    Raises:
        PipelineError: the run holds the settings of another evaluation by now; or as `download`.
    """
    with TemporaryDirectory() as folder:
        download(run.run_id, ["experiment.json"], Path(folder))
        experiment = Experiment.model_validate(_read(Path(folder, "experiment.json")))
    if experiment.evaluation_fingerprint != run.tags.get("evaluation_fingerprint"):
        raise PipelineError(
            f"run {run.run_id}: its settings are those of an evaluation that was not finished, its numbers are of "
            f"another one; finish it: 'dvc repro evaluate@{experiment.identifier}'"
        )
    return experiment


def download(run_id: str, names: Iterable[str], folder: Path) -> None:
    """Copy files of a run into `folder`.

    Raises:
        PipelineError: the store does not exist or is out of reach, or the run lacks a file.
    """
    uri = tracking_uri()
    _require_store(uri)
    from mlflow import MlflowClient

    with _reported(uri):
        client = MlflowClient(tracking_uri=uri)
        for name in names:
            client.download_artifacts(run_id, name, str(folder))


@dataclass(frozen=True)
class RegisteredModel:
    """A version in MLflow's model registry."""

    name: str
    version: str
    alias: str
    """Names the version that was registered last with it: 'models:/<name>@<alias>'."""

    @property
    def uri(self) -> str:
        """What `mlflow.pytorch.load_model` and `mlflow.pyfunc.load_model` take."""
        return f"models:/{self.name}/{self.version}"


def register_model(
    run_id: str, model: nn.Module, example: np.ndarray, name: str, alias: str, tags: Mapping[str, str]
) -> RegisteredModel:
    """Save a network with its run and register it, once: equal `tags` of the same run give the version that is there.

    The network is saved as a traced graph (pt2), not as a pickle: loading it runs no code and needs no project. Loaded
    with either flavour it gives logits for float32 images, which is checked on the example.

    Args:
        run_id: Where it is saved.
        model: In eval mode, on the CPU.
        example: Two or more images, float32 in [0, 1], of shape (batch, channels, height, width).
        name: In the registry; it is created where it is missing.
        alias: Is given to the version.
        tags: Of the version.

    Raises:
        PipelineError: the store is out of reach, or the loaded network gives other logits; the version is then gone.
    """
    uri = tracking_uri()
    _check_reachable(uri)
    import mlflow
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with _reported(uri):
        mlflow.set_tracking_uri(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = client.search_model_versions(f"name = '{name}'")
        same = [item for item in versions if item.run_id == run_id and tags.items() <= item.tags.items()]
        if not same:
            _save_model(client, run_id, model, example)
            source = f"{client.get_run(run_id).info.artifact_uri}/model"
            same = [client.create_model_version(name, source, run_id, tags=dict(tags))]
        registered = RegisteredModel(name, str(same[0].version), alias)
        try:
            _check_loaded(registered, model, example)
        except PipelineError:
            client.delete_model_version(name, registered.version)
            raise
        client.set_registered_model_alias(name, alias, registered.version)
    return registered


def _save_model(client: MlflowClient, run_id: str, model: nn.Module, example: np.ndarray) -> None:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.pytorch import save_model
    from mlflow.types import Schema, TensorSpec

    classes = _logits(model, example).shape[1]
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("float32"), (-1, *example.shape[1:]))]),
        Schema([TensorSpec(np.dtype("float32"), (-1, classes))]),
    )
    pinned = [f"{package}=={version(package).partition('+')[0]}" for package in ("mlflow", "numpy", "torch")]
    with TemporaryDirectory() as folder:
        place = f"{folder}/model"
        save_model(
            model,
            place,
            signature=signature,
            input_example=example,
            pip_requirements=pinned,
            serialization_format="pt2",
        )
        client.log_artifacts(run_id, place, "model")


def _check_loaded(registered: RegisteredModel, model: nn.Module, example: np.ndarray) -> None:
    import mlflow.pyfunc
    import mlflow.pytorch
    import numpy as np

    expected = _logits(model, example)
    loaded = {
        "mlflow.pytorch": _logits(mlflow.pytorch.load_model(registered.uri), example),
        "mlflow.pyfunc": mlflow.pyfunc.load_model(registered.uri).predict(example),
    }
    for flavour, logits in loaded.items():
        if not np.allclose(logits, expected, rtol=1e-4, atol=1e-5):
            raise PipelineError(
                f"{registered.uri} loaded with {flavour} differs from the weights by up to "
                f"{np.abs(logits - expected).max():.3g} in its logits: it was taken off the registry; export it again"
            )


def _logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits: np.ndarray = model(torch.from_numpy(images)).numpy()
    return logits


def _evaluated_runs(
    experiments: Iterable[Experiment], tags: tuple[str, ...], address: Callable[[Experiment], tuple[str, ...]]
) -> pd.DataFrame:
    """The evaluated runs whose `tags` are the `address` of one of `experiments`; see `finished_runs`."""
    uri = tracking_uri()
    _require_store(uri)
    by_suite: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        by_suite.setdefault(experiment.suite, []).append(experiment)
    rows: list[dict[str, Any]] = []
    with _reported(uri):
        for suite, wanted in by_suite.items():
            by_address: dict[tuple[str, ...], list[Experiment]] = {}
            for experiment in wanted:
                by_address.setdefault(address(experiment), []).append(experiment)
            for run in _evaluated(uri, suite):
                values = tuple(run.data.tags.get(tag, "") for tag in tags)
                rows += [_row(uri, experiment, run) for experiment in by_address.get(values, [])]
    measured = sorted({key for row in rows for key in row} - set(RUN_COLUMNS))
    frame = pd.DataFrame(rows, columns=[*RUN_COLUMNS, *measured])
    frame["end_time"] = pd.to_datetime(frame["end_time"], unit="ms", utc=True)
    return frame.sort_values("end_time", kind="stable", ignore_index=True)


def describe_store() -> str:
    """Where runs are kept and how many of this project's are in there, found by reading them.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        PipelineError: the store is out of reach, damaged, or has the schema of another version of MLflow.
    """
    uri = tracking_uri()
    if _is_absent(uri):
        return f"{mask(uri)} does not exist yet: the first run makes it"
    with _reported(uri):
        _check_reachable(uri)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        suites = [item for item in client.search_experiments() if item.name.startswith("generalist/")]
        runs = sum(1 for item in suites for _ in _search(client, item.experiment_id, ""))
    return f"{mask(uri)}: {runs} runs of {len(suites)} suites"


def read_histories(run_ids: Iterable[str]) -> dict[str, pd.DataFrame]:
    """The training of runs, epoch by epoch.

    Returns:
        By run, one row per epoch with the columns that training records: `epoch` (from 1), `loss/<learner>`,
        `mixing_ratio/<learner>`, `redistributed` (0 or 1), `held_out/<learner or global>/<metric>` in [0, 1], NaN in
        epochs without that measurement, and more. Runs that have none are left out.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    return read_artifacts(run_ids, "history.json", lambda path: pd.DataFrame(json.loads(path.read_text())))


def read_class_accuracies(run_ids: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Accuracies by class of runs.

    Returns:
        By run, one row per attack (or `natural`) and class: `attack`, `label` (from 0), `images`, `accuracy` in [0, 1]
        and its interval `low`, `high`. Runs that have none are left out.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    return read_artifacts(run_ids, "classes.csv", pd.read_csv)


def read_artifacts(run_ids: Iterable[str], name: str, read: Callable[[Path], T]) -> dict[str, T]:
    """A file of many runs, several at a time: a server answers many requests as fast as one.

    Args:
        run_ids: As `finished_runs` gives them.
        name: For example `history.json`.
        read: Gives its content; a ValueError says that it is damaged.

    Returns:
        The content by run. Runs that have no such file are left out.

    Raises:
        RequestError, PipelineError: as `finished_runs`; or a file is damaged.
    """
    from concurrent.futures import ThreadPoolExecutor

    uri, wanted = tracking_uri(), list(dict.fromkeys(run_ids))
    if not wanted:
        return {}
    _check_reachable(uri)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)

    def fetch(run_id: str, folder: str) -> T | None:
        if name not in {item.path for item in client.list_artifacts(run_id)}:
            return None
        try:
            return read(Path(client.download_artifacts(run_id, name, folder)))
        except ValueError as error:
            raise PipelineError(f"MLflow run {run_id}: its artifact {name} is damaged ({error})") from None

    with _reported(uri), TemporaryDirectory() as root, ThreadPoolExecutor(ARTIFACTS_AT_A_TIME) as pool:
        folders = [mkdtemp(dir=root) for _ in wanted]
        found = zip(wanted, pool.map(fetch, wanted, folders), strict=True)
        return {run_id: content for run_id, content in found if content is not None}


def _evaluated(uri: str, suite: str) -> Iterator[Run]:
    """Every evaluated run of the suite."""
    client, experiment_id = _open_store(uri, suite, create=False)
    if experiment_id is not None:
        yield from _search(client, experiment_id, "tags.evaluated = 'true'")


def _row(uri: str, experiment: Experiment, run: Run) -> dict[str, Any]:
    metrics, tags = run.data.metrics, run.data.tags
    same = tags.get("fingerprint") == experiment.fingerprint
    return {
        "fingerprint": experiment.fingerprint,
        "evaluation_fingerprint": experiment.evaluation_fingerprint,
        "method": experiment.name,
        "seed": experiment.seed,
        "protocol": experiment.protocol if same else tags.get("protocol"),
        "suite": experiment.suite,
        "run_id": run.info.run_id,
        "gradient_masking": tags.get("gradient_masking"),
        "same_attacks": tags.get("evaluation_fingerprint") == experiment.evaluation_of(tags.get("fingerprint", "")),
        "page": _page(uri, run),
        "end_time": run.info.end_time or run.info.start_time,
        **{f"metric.{key[5:]}": value for key, value in metrics.items() if key.startswith("test/")},
        f"metric.{TRAINING_SECONDS}": metrics.get("summary/seconds"),
        **_ood(experiment, run),
        **{f"count.{key[12:]}": int(value) for key, value in metrics.items() if key.startswith("test_images/")},
    }


def _page(uri: str, run: Run) -> str:
    """On the server, without a password; on the address of 'make ui' where the store is a database."""
    server = urlsplit(uri) if uri.startswith(("http://", "https://")) else urlsplit(USER_INTERFACE)
    base = server._replace(netloc=server.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return f"{base}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def _ood(experiment: Experiment, run: Run) -> dict[str, Any]:
    """The metrics on corrupted images, if they were measured with the experiment's settings."""
    if not _has_ood(experiment, run):
        return {}
    tags, metrics = run.data.tags, run.data.metrics
    found = {f"metric.{name}": metrics[f"ood/{name}"] for name in OOD_METRICS}
    counts = {f"count.{name}": int(metrics["ood/images"]) for name in OOD_METRICS}
    return {**found, **counts, "ood_provenance": tags["ood_provenance"]}


def _has_ood(experiment: Experiment, run: Run) -> bool:
    found: bool = run.data.tags.get("ood_fingerprint") == experiment.ood_fingerprint
    return found


def _search(client: MlflowClient, experiment_id: str, condition: str) -> Iterator[Run]:
    """Every run that meets `condition`, the latest first."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], condition, max_results=PAGE, order_by=["attributes.start_time DESC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _start(uri: str, experiment: Experiment, data: DataDescription, commit: str) -> TrackedRun:
    name = f"{experiment.identifier} {experiment.architecture}"
    with _reported(uri):
        client, experiment_id = _open_store(uri, experiment.suite, create=True)
        found = next(_search(client, str(experiment_id), f"tags.fingerprint = '{experiment.fingerprint}'"), None)
        if found is None:
            tags = {"fingerprint": experiment.fingerprint, **_commit_tags(commit)}
            found = client.create_run(str(experiment_id), tags=tags, run_name=name)
        client.update_run(found.info.run_id, status="RUNNING", name=name)
    run = TrackedRun(client, uri, found.info.run_id)
    run.describe(experiment, data)
    return run


def _open_store(uri: str, suite: str, create: bool) -> tuple[MlflowClient, str | None]:
    """A client, and the id of the suite's MLflow experiment (None: there is none, and none was to be created).

    MLflow creates a sqlite schema without a lock: of several processes that open a new file at once all but one fail.
    """
    _check_reachable(uri)
    from mlflow import MlflowClient

    sqlite = uri.startswith(SQLITE)
    lock: AbstractContextManager[object] = FileLock(f"{_database(uri)}.lock") if sqlite else nullcontext()
    with lock:
        client = MlflowClient(tracking_uri=uri)
        experiment_id = _find_experiment(client, suite)
        if experiment_id is None and create:
            experiment_id = _create_experiment(client, uri, suite)
    return client, experiment_id


def _find_experiment(client: MlflowClient, suite: str) -> str | None:
    found = client.get_experiment_by_name(f"generalist/{suite}")
    if found is None:
        return None
    if found.lifecycle_stage == "deleted":
        raise PipelineError(
            f"the MLflow experiment '{found.name}' was deleted. Bring it back with 'mlflow experiments restore "
            f"--experiment-id {found.experiment_id}', or remove it for good with 'mlflow gc'."
        )
    return str(found.experiment_id)


def _create_experiment(client: MlflowClient, uri: str, suite: str) -> str | None:
    from mlflow.exceptions import MlflowException

    artifacts = None
    if uri.startswith(SQLITE):
        artifacts = (_database(uri).parent / "mlartifacts" / suite).as_uri()
    try:
        return str(client.create_experiment(f"generalist/{suite}", artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _find_experiment(client, suite)  # another machine was faster


def _database(uri: str) -> Path:
    return Path(uri.removeprefix(SQLITE))


def _is_absent(uri: str) -> bool:
    """Whether it is a sqlite file that is not there, which MLflow would make, even to read it."""
    return uri.startswith(SQLITE) and not _database(uri).exists()


def _require_store(uri: str) -> None:
    """Refuse to read a store that does not exist or does not answer.

    Raises:
        RequestError, PipelineError: as `_check_reachable`; or there is no such sqlite file.
    """
    if _is_absent(uri):
        raise PipelineError(
            f"there is no MLflow store at {uri}. Train and evaluate something first ('make repro'), or point "
            "MLFLOW_TRACKING_URI to the store or server that has the runs."
        )
    _check_reachable(uri)


def _check_reachable(uri: str) -> None:
    """Find out within seconds what MLflow would retry for minutes.

    Raises:
        RequestError: not an address that MLflow takes.
        PipelineError: a server does not answer, or a sqlite file is not a database.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    except ValueError as error:
        raise RequestError(f"MLFLOW_TRACKING_URI '{mask(uri)}' is not an address: {error}") from None
    if parts.scheme in ("", "file") and uri != "databricks":
        raise RequestError(
            f"MLFLOW_TRACKING_URI '{mask(uri)}' is a folder, which MLflow no longer takes. Use a database "
            f"('{DEFAULT_URI}', the default) or the address of an MLflow server."
        )
    try:
        if uri.startswith(SQLITE):
            _read_schema_version(_database(uri))
        elif parts.scheme in ("http", "https"):
            _ask(parts)
        elif parts.hostname and port:
            socket.create_connection((parts.hostname, port), timeout=PATIENCE).close()
    except (OSError, sqlite3.Error) as error:
        raise PipelineError(f"MLflow at {mask(uri)} is out of reach: {error}. {_way_out(uri)}") from None


def _read_schema_version(database: Path) -> None:
    if database.exists():
        connection = sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=DATABASE_PATIENCE)
        try:
            connection.execute("PRAGMA schema_version")
        finally:
            connection.close()


def _ask(parts: SplitResult) -> None:
    """Wait for any answer of an HTTP server; whether it lets us in is for MLflow to find out."""
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + "/health")
    try:
        urllib.request.urlopen(address.geturl(), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        if not isinstance(error.reason, SSLError):
            raise


@contextmanager
def _reported(uri: str) -> Iterator[None]:
    """Turn what MLflow and the libraries below it raise into one message, without passwords."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        raise PipelineError(f"MLflow at {mask(uri)} failed: {mask(str(error))}. {_way_out(uri)}") from None


def _way_out(uri: str) -> str:
    if uri.startswith(SQLITE):
        return f"Check the file {_database(uri)}, or point MLFLOW_TRACKING_URI elsewhere; the same command continues."
    return "Start the server, or correct or unset MLFLOW_TRACKING_URI; the same command continues."


def mask(text: str) -> str:
    """`text` without the passwords of the addresses in it.

    >>> mask("cannot reach postgresql://me:secret@host/runs")
    'cannot reach postgresql://me:***@host/runs'
    """
    return re.sub(r"(://[^:/\s]*):\S*@", r"\1:***@", text)


def _metrics(values: Mapping[str, float], step: int) -> list[Metric]:
    """The metrics of one step, all with the present time."""
    from mlflow.entities import Metric

    wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise PipelineError(
            f"step {step} has metrics that are not finite, nothing of it was logged: {', '.join(wrong)}"
        )
    now = time.time_ns() // 1_000_000
    return [Metric(name, float(value), now, step) for name, value in values.items()]


def _dataset_input(data: DataDescription) -> Any:
    """The data set as MLflow keeps it: name, digest and numbers of images, without a copy of the images."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=data.name,
        digest=data.digest[:DIGEST_LENGTH],
        source_type="code",
        source=json.dumps({"tags": {"module": "pipeline.data.prepare"}}),
        profile=json.dumps(dict(data.counts)),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _tags(experiment: Experiment, data: DataDescription) -> dict[str, str]:
    return {
        "suite": experiment.suite,
        "method": experiment.name,
        "protocol": experiment.protocol,
        "seed": str(experiment.seed),
        "dataset": data.name,
        "data_digest": data.digest,
        "architecture": experiment.architecture,
    }


def _commit_tags(commit: str) -> dict[str, str]:
    return {"git.commit": commit.removesuffix("-dirty"), "git.dirty": str(commit.endswith("-dirty")).lower()}


def _parameters(experiment: Experiment) -> dict[str, str]:
    """What the fingerprint covers, flat; what is cut says so."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in _flatten(experiment.training_identity()).items()
    }
    cut = " ... (in full in experiment.json)"
    return {
        key: text if len(text) <= PARAMETER_LENGTH else text[: PARAMETER_LENGTH - len(cut)] + cut
        for key, text in texts.items()
    }


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read(path: Path) -> Any:
    """The content of a file that a stage wrote.

    Raises:
        PipelineError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: is missing; run its stage again ('dvc repro')") from None
    except ValueError as error:
        raise PipelineError(f"{path}: is damaged ({error}); run its stage again ('dvc repro --force')") from None
