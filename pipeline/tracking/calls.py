"""What a record tells the store, and telling it: calls with fixed values and times, so that twice is as good as once.

MLflow keeps one row for equal key, value, time and step of a metric, replaces tags and artifacts, and refuses to change
a parameter; what it does not make harmless by itself, a call asks for first.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.config import Experiment
from pipeline.core.errors import PipelineError
from pipeline.provenance.code import digest_of
from pipeline.tracking.spool import Record
from pipeline.tracking.store import check_reachable, check_unchanged, find_run, mask, open_store, reported

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

BATCH = {"metrics": 1000, "params": 100}
"""MLflow's limits for one call."""
DIGEST_LENGTH = 32
"""MLflow takes digests of up to 36 characters; the tag `data_digest` has the whole one."""

Call = dict[str, Any]
"""JSON: `call` names one of `CALLS`, the rest is what it takes."""


def record(experiment: Experiment, calls: Sequence[Call], commit: str | None = None) -> dict[str, Any]:
    """The content of a record.

    Args:
        experiment: Whose run is meant.
        calls: In order.
        commit: Of the code, for a run that is not there yet; None: without a run there is nothing to tell.
    """
    address = {"fingerprint": experiment.fingerprint, "training_code": digest_of("train", experiment)}
    tags = None if commit is None else {**address, **commit_tags(commit)}
    run = {
        "suite": experiment.suite,
        **address,
        "name": _name(experiment),
        "time": now(),
        "tags_if_new": tags,
    }
    return {"run": run, "calls": list(calls)}


def _name(experiment: Experiment) -> str:
    return f"{experiment.identifier} {experiment.architecture}"


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000


def started(experiment: Experiment) -> Call:
    """The run is worked on from here on, under the present name of the experiment."""
    return {"call": "started", "name": _name(experiment)}


def ended(status: str) -> Call:
    """The run has ended: FINISHED, KILLED or FAILED."""
    return {"call": "ended", "status": status, "time": now()}


def metrics(values: Mapping[str, float], step: int = 0) -> Call:
    """Metrics of one step.

    Raises:
        PipelineError: one is not finite.
    """
    return {"call": "metrics", "step": step, "time": now(), "values": _finite(values, step)}


def epochs(history: Iterable[Mapping[str, float]]) -> Call:
    """The history's rows of epochs, each at step `epoch`; one that the run has already is left as it is.

    Raises:
        PipelineError: a number is not finite.
    """
    return {"call": "epochs", "time": now(), "epochs": [_finite(row, int(row["epoch"])) for row in history]}


def tags(values: Mapping[str, str]) -> Call:
    """Tags, in place of those of the same names."""
    return {"call": "tags", "values": dict(values)}


def withdraw(*names: str, unless: Mapping[str, str] | None = None) -> Call:
    """Delete tags: numbers are about to change, and a stop in between must show.

    Args:
        names: Of the tags; those that are not there are passed over.
        unless: Nothing is deleted from a run that has these tags.
    """
    return {"call": "withdraw", "names": list(names), "unless": dict(unless or {})}


def params(values: Mapping[str, str]) -> Call:
    """The parameters that the run does not have yet."""
    return {"call": "params", "values": dict(values)}


def dataset(name: str, digest: str, counts: Mapping[str, int]) -> Call:
    """The data set as the run's input: name, digest and numbers of images, without a copy of the images."""
    return {"call": "dataset", "name": name, "digest": digest, "counts": dict(counts)}


def settings(content: Any) -> Call:
    """The artifact `experiment.json`."""
    return {"call": "settings", "content": content}


def files(*names: str) -> Call:
    """Files that belong to the record, as artifacts."""
    return {"call": "files", "names": list(names)}


def commit_tags(commit: str) -> dict[str, str]:
    """The tags that tell the code's commit."""
    return {"git.commit": commit.removesuffix("-dirty"), "git.dirty": str(commit.endswith("-dirty")).lower()}


def _finite(values: Mapping[str, float], step: int) -> dict[str, float]:
    wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise PipelineError(
            f"step {step} has metrics that are not finite, nothing of it was logged: {', '.join(wrong)}"
        )
    return {name: float(value) for name, value in values.items()}


@dataclass(frozen=True)
class Target:
    """A run in the store."""

    client: MlflowClient
    run_id: str


class Receiver:
    """Tells the store what records say: a receiver for `Spool.deliver`.

    After a failure a new one is needed: the store may have become another.

    Args:
        uri: Of the store.

    Raises:
        RequestError, PipelineError: as `check_reachable`.
    """

    def __init__(self, uri: str) -> None:
        check_reachable(uri)
        self._uri = uri
        self._targets: dict[tuple[str, ...], Target] = {}

    def __call__(self, record: Record) -> None:
        """Tell the store one record; its run is found by its fingerprint and code, or made.

        Raises:
            PipelineError: the store fails, refuses, or is another file than before.
        """
        check_unchanged(self._uri)
        try:
            with reported(self._uri):
                self._tell(record)
        except (PipelineError, OSError):
            raise
        except Exception as error:  # MLflow trusts that an answer is one: a login page with status 200 is none
            what = f"{type(error).__name__}: {mask(str(error))}".partition("\n")[0]
            raise PipelineError(f"MLflow at {mask(self._uri)} gave an answer that is none ({what}).") from error

    def _tell(self, record: Record) -> None:
        target = self._target(record.content["run"])
        if target is None:
            return
        for call in record.content["calls"]:
            CALLS[call["call"]](target, {**call, "folder": record.files})

    def run_id(self, address: Mapping[str, str]) -> str | None:
        """The run with these tags, fingerprint and code, once a record of it was received."""
        target = self._targets.get(tuple(address.values()))
        return None if target is None else target.run_id

    def _target(self, run: Mapping[str, Any]) -> Target | None:
        # A record that an earlier version of this project has left says nothing of its code.
        address = {key: run[key] for key in ("fingerprint", "training_code") if key in run}
        known = self._targets.get(tuple(address.values()))
        if known is not None:
            return known
        make = run["tags_if_new"] is not None
        client, experiment_id = open_store(self._uri, run["suite"], create=make)
        found = None if experiment_id is None else find_run(client, experiment_id, address)
        if found is None and not make:
            return None
        if found is None:
            options = {"start_time": run["time"], "tags": run["tags_if_new"], "run_name": run["name"]}
            found = client.create_run(str(experiment_id), **options)
        target = self._targets[tuple(address.values())] = Target(client, found.info.run_id)
        return target


def _started(target: Target, call: Call) -> None:
    target.client.update_run(target.run_id, status="RUNNING", name=call["name"])


def _ended(target: Target, call: Call) -> None:
    target.client.set_terminated(target.run_id, call["status"], end_time=call["time"])


def _metrics(target: Target, call: Call) -> None:
    _send(target, _entities(call["values"], call["time"], call["step"]))


def _epochs(target: Target, call: Call) -> None:
    """The number of an epoch goes last, so that an epoch whose number is there is there as a whole."""
    logged = {metric.step for metric in target.client.get_metric_history(target.run_id, "epoch")}
    new = [row for row in call["epochs"] if int(row["epoch"]) not in logged]
    for row in new:
        row["epoch"] = row.pop("epoch")
    _send(target, [metric for row in new for metric in _entities(row, call["time"], int(row["epoch"]))])


def _send(target: Target, entities: list[Metric]) -> None:
    for start in range(0, len(entities), BATCH["metrics"]):
        target.client.log_batch(target.run_id, metrics=entities[start : start + BATCH["metrics"]])


def _entities(values: Mapping[str, float], timestamp: int, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(name, value, timestamp, step) for name, value in values.items()]


def _tags(target: Target, call: Call) -> None:
    from mlflow.entities import RunTag

    target.client.log_batch(target.run_id, tags=[RunTag(key, value) for key, value in call["values"].items()])


def _withdraw(target: Target, call: Call) -> None:
    found = target.client.get_run(target.run_id).data.tags
    if call["unless"] and call["unless"].items() <= found.items():
        return
    for name in call["names"]:
        if name in found:
            target.client.delete_tag(target.run_id, name)


def _params(target: Target, call: Call) -> None:
    from mlflow.entities import Param

    known = target.client.get_run(target.run_id).data.params
    new = [Param(key, value) for key, value in call["values"].items() if key not in known]
    for start in range(0, len(new), BATCH["params"]):
        target.client.log_batch(target.run_id, params=new[start : start + BATCH["params"]])


def _dataset(target: Target, call: Call) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    described = Dataset(
        name=call["name"],
        digest=call["digest"][:DIGEST_LENGTH],
        source_type="code",
        source=json.dumps({"tags": {"module": "pipeline.data.prepare"}}),
        profile=json.dumps(call["counts"]),
    )
    entry = DatasetInput(described, [InputTag("mlflow.data.context", "training")])
    target.client.log_inputs(target.run_id, [entry])


def _settings(target: Target, call: Call) -> None:
    target.client.log_dict(target.run_id, call["content"], "experiment.json")


def _files(target: Target, call: Call) -> None:
    for name in call["names"]:
        target.client.log_artifact(target.run_id, str(call["folder"] / name))


CALLS: dict[str, Callable[[Target, Call], None]] = {
    "started": _started,
    "ended": _ended,
    "metrics": _metrics,
    "epochs": _epochs,
    "tags": _tags,
    "withdraw": _withdraw,
    "params": _params,
    "dataset": _dataset,
    "settings": _settings,
    "files": _files,
}
