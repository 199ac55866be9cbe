"""What a record tells MLflow of a run, and telling it: with fixed values and times, so that twice is as good as once.

MLflow keeps one row for equal key, value, time and step of a metric, replaces tags and artifacts, and refuses to change
a parameter; what it does not make harmless by itself, it is asked for first.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Experiment
from pipeline.config.writing import readable_yaml
from pipeline.core.errors import PipelineError
from pipeline.provenance.code import digest_of
from pipeline.tracking.pictures import curves
from pipeline.tracking.spool import Record
from pipeline.tracking.store import check_reachable, check_unchanged, mask, open_store, reported, search, tagged

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

METRICS_AT_A_TIME, PARAMS_AT_A_TIME = 1000, 100
"""MLflow's limits for one call."""
DIGEST_LENGTH = 32
"""MLflow takes digests of up to 36 characters; the tag `data_digest` has the whole one."""


@dataclass(frozen=True)
class Update:
    """What is told of a run, all of it at one time and in this order; what is empty is not told."""

    name: str = ""
    """The run is worked on from here on, under this name."""
    withdraw: Sequence[str] = ()
    """Tags to delete: numbers are about to change, and a stop in between must show."""
    unless: Mapping[str, str] = field(default_factory=dict)
    """Nothing is withdrawn from a run that has these tags."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Parameters; one that the run has already stays as it is."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The run's input, without a copy of the images: `name`, `digest` and `counts` of images by split."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The artifact `experiment.json`, and as `params.yaml` what runs this experiment alone."""
    epochs: Sequence[Mapping[str, float]] = ()
    """Rows of the history, each logged at step `epoch`; those that the run has already stay."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[str] = ()
    """Names of those files of the record that become artifacts."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """They replace those of the same names."""
    status: str = ""
    """How the run has ended: FINISHED, KILLED or FAILED."""

    def __post_init__(self) -> None:
        """Refuse (PipelineError) numbers that are not finite."""
        for step, values in [(int(row["epoch"]), row) for row in self.epochs] + [(0, self.metrics)]:
            wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
            if wrong:
                raise PipelineError(
                    f"step {step} has metrics that are not finite, nothing of it was logged: {', '.join(wrong)}"
                )


def record(experiment: Experiment, update: Update, commit: str | None = None) -> dict[str, Any]:
    """The content of a record; `commit` is the code's, for a run that is not there yet (None: then there is nothing to
    tell)."""
    address = run_address(experiment)
    return {
        "run": {
            "suite": experiment.suite,
            **address,
            "name": run_name(experiment),
            "time": time.time_ns() // 1_000_000,  # as MLflow counts
            "tags_if_new": None if commit is None else {**address, **commit_tags(commit)},
        },
        "update": {key: value for key, value in asdict(update).items() if value},
    }


def run_name(experiment: Experiment) -> str:
    """What MLflow shows, which cuts longer ones: the network is a tag."""
    return experiment.identifier


def run_address(experiment: Experiment) -> dict[str, str]:
    """The tags that a run of this code is found by."""
    return {"fingerprint": experiment.fingerprint, "training_code": digest_of("train", experiment)}


def commit_tags(commit: str) -> dict[str, str]:
    """The tags that tell the code's commit."""
    plain = commit.removesuffix("-dirty")
    dirty = str(commit.endswith("-dirty")).lower()
    return {"git.commit": plain, "git.dirty": dirty, "mlflow.source.git.commit": plain}  # the last has a column


class Receiver:
    """Tells the store what records say: a receiver for `Spool.deliver`.

    After a failure a new one is needed: the store may have become another.

    Raises:
        RequestError, PipelineError: as `check_reachable`.
    """

    def __init__(self, uri: str) -> None:
        check_reachable(uri)
        self._uri = uri
        self._runs: dict[tuple[str, ...], tuple[MlflowClient, str]] = {}

    def __call__(self, record: Record) -> None:
        """Tell the store one record; its run is found by its fingerprint and code, or made.

        Raises:
            PipelineError: the store fails, refuses, or is another file than before.
        """
        check_unchanged(self._uri)
        try:
            run, update = record.content["run"], Update(**record.content["update"])
        except (KeyError, TypeError):
            raise PipelineError(
                f"{record.files.with_suffix('.json')}: another version of this project has left this record and "
                "delivers it. Or move it away; what it held is in results/ once the experiment is finished."
            ) from None
        try:
            with reported(self._uri):
                found = self._find(run)
                if found is not None:
                    _tell(*found, update, run["time"], record.files)
        except (PipelineError, OSError):
            raise
        except Exception as error:  # MLflow believes any answer with status 200, a login page for example
            what = f"{type(error).__name__}: {mask(str(error))}".partition("\n")[0]
            raise PipelineError(f"MLflow at {mask(self._uri)} answered what MLflow never answers ({what}).") from error

    def run_id(self, address: Mapping[str, str]) -> str | None:
        """The run with these tags, fingerprint and code, once a record of it was received."""
        found = self._runs.get(tuple(address.values()))
        return None if found is None else found[1]

    def _find(self, run: Mapping[str, Any]) -> tuple[MlflowClient, str] | None:
        address = {key: run[key] for key in ("fingerprint", "training_code")}
        key = tuple(address.values())
        if key not in self._runs:
            client, experiment_id = open_store(self._uri, run["suite"], create=run["tags_if_new"] is not None)
            found = None if experiment_id is None else next(search(client, experiment_id, tagged(address)), None)
            if found is None and run["tags_if_new"] is not None:
                options = {"start_time": run["time"], "tags": run["tags_if_new"], "run_name": run["name"]}
                found = client.create_run(str(experiment_id), **options)
            if found is None:
                return None
            self._runs[key] = client, found.info.run_id
        return self._runs[key]


def _tell(client: MlflowClient, run_id: str, update: Update, moment: int, folder: Path) -> None:
    """Tell the store of a run what was to be told at a `moment`; `folder` has the files."""
    from mlflow.entities import RunTag

    if update.name:
        client.update_run(run_id, status="RUNNING", name=update.name)
    if update.withdraw or update.params:
        _withdraw_and_add(client, run_id, update)
    if update.data:
        _log_input(client, run_id, update.data)
    if update.settings:
        client.log_dict(run_id, update.settings, "experiment.json")
        client.log_text(run_id, readable_yaml(_alone(update.settings)), "params.yaml")
    metrics = _of_epochs(client, run_id, update.epochs, moment) + _metrics(update.metrics, moment, 0)
    for start in range(0, len(metrics), METRICS_AT_A_TIME):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_A_TIME])
    for name in update.files:
        client.log_artifact(run_id, str(folder / name))
    if "history.json" in update.files and (picture := curves(json.loads((folder / "history.json").read_text()))):
        client.log_figure(run_id, picture, "curves.png")
    if update.tags:
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in update.tags.items()])
    if update.status:
        client.set_terminated(run_id, update.status, end_time=moment)


def _alone(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The params.yaml of a suite of one experiment, which has the fingerprints that it has."""
    shared = {key: value for key, value in settings.items() if key not in ("method", "name", "grid", "seed")}
    name, seed = settings["name"], settings["seed"]
    own = {"seeds": [seed], "methods": {name: settings["method"]}, "tables": {}}
    described = {"description": f"{name} with seed {seed}, alone", "reports_folder": f"reports/{name}-{seed}"}
    return {**shared, **own, **described}


def _withdraw_and_add(client: MlflowClient, run_id: str, update: Update) -> None:
    """Delete tags that the run has, and log parameters that it lacks."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data
    if not update.unless or not update.unless.items() <= known.tags.items():
        for name in filter(known.tags.__contains__, update.withdraw):
            client.delete_tag(run_id, name)
    params = [Param(key, value) for key, value in update.params.items() if key not in known.params]
    for start in range(0, len(params), PARAMS_AT_A_TIME):
        client.log_batch(run_id, params=params[start : start + PARAMS_AT_A_TIME])


def _log_input(client: MlflowClient, run_id: str, data: Mapping[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    described = Dataset(
        name=data["name"],
        digest=data["digest"][:DIGEST_LENGTH],
        source_type="code",
        source=json.dumps({"tags": {"module": "pipeline.data.prepare"}}),
        profile=json.dumps(data["counts"]),
    )
    client.log_inputs(run_id, [DatasetInput(described, [InputTag("mlflow.data.context", "training")])])


def _of_epochs(client: MlflowClient, run_id: str, epochs: Sequence[Mapping[str, float]], moment: int) -> list[Metric]:
    """The epochs that the run lacks. The number of each goes last: where it is there, the epoch is there as a whole."""
    logged = {metric.step for metric in client.get_metric_history(run_id, "epoch")} if epochs else set[int]()
    new = [dict(row) for row in epochs if int(row["epoch"]) not in logged]
    for row in new:
        row["epoch"] = row.pop("epoch")
    return [metric for row in new for metric in _metrics(row, moment, int(row["epoch"]))]


def _metrics(values: Mapping[str, float], moment: int, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(name, float(value), moment, step) for name, value in values.items()]
