"""The run of an experiment while it is worked on, and what is written to it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Experiment
from pipeline.errors import Interrupted, PipelineError
from pipeline.provenance import git_commit
from pipeline.tracking.files import flatten, read
from pipeline.tracking.reading import finished_runs, has_ood
from pipeline.tracking.store import is_absent, open_store, reported, search, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

BATCH = {"metrics": 1000, "params": 100}
"""MLflow's limits for one call."""
PARAMETER_LENGTH = 500
TAG_LENGTH = 4000
DIGEST_LENGTH = 32
"""MLflow takes digests of up to 36 characters; the tag `data_digest` has the whole one."""


@dataclass(frozen=True)
class DataDescription:
    """Which images an experiment works on."""

    name: str
    digest: str
    """sha256 of the prepared data set, hexadecimal."""
    counts: Mapping[str, int]
    """Number of images by split."""


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
        summary = flatten(read(folder / "summary.json"))
        with reported(self.uri):
            logged = {metric.step for metric in self.client.get_metric_history(self.run_id, "epoch")}
            tags = self.client.get_run(self.run_id).data.tags
        if tags.get("weights_sha256") != summary["weights_sha256"]:
            self._withdraw("evaluated", "ood_fingerprint")
        history = [record for record in read(folder / "history.json") if record["epoch"] not in logged]
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
        content = read(folder / "metrics.json")
        self._withdraw("evaluated")
        self._log_metrics(_metrics({f"test/{name}": value for name, value in content["metrics"].items()}, 0))
        self._log_metrics(_metrics({f"test_images/{name}": count for name, count in content["counts"].items()}, 0))
        for end, place in (("low", 0), ("high", 1)):
            ends = {f"test_{end}/{name}": interval[place] for name, interval in content["intervals"].items()}
            self._log_metrics(_metrics(ends, 0))
        self._log_files(folder, "verdicts.parquet", "metrics.json", "classes.csv", "trust.json")
        suspicious = read(folder / "trust.json")["suspicious"]
        tags = {"evaluation_fingerprint": content["evaluation_fingerprint"], "evaluated": "true"}
        self._set_tags({**tags, "gradient_masking": "suspected" if suspicious else "no sign"})

    def log_ood(self, folder: Path) -> None:
        """Log what `stages.ood` left in `folder`: metrics `ood/...`, the accuracies behind them, what was corrupted.

        Until all of it is there, the run is not marked as measured on corrupted images."""
        content = read(folder / "metrics.json")
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

        with reported(self.uri):
            kind: Any = SystemMetricsMonitor
            monitor = kind(self.run_id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def close(self, status: str) -> None:
        """End the run: FINISHED, KILLED or FAILED."""
        with reported(self.uri):
            self.client.set_terminated(self.run_id, status)

    def describe(self, experiment: Experiment, data: DataDescription) -> None:
        """Log what the experiment is: tags, data set, settings, and those parameters that the run does not have yet."""
        from mlflow.entities import Param

        with reported(self.uri):
            known = self.client.get_run(self.run_id).data.params
            params = [Param(key, value) for key, value in _parameters(experiment).items() if key not in known]
            for start in range(0, len(params), BATCH["params"]):
                self.client.log_batch(self.run_id, params=params[start : start + BATCH["params"]])
            self.client.log_inputs(self.run_id, [_dataset_input(data)])
            self.client.log_dict(self.run_id, experiment.model_dump(mode="json"), "experiment.json")
        self._set_tags(_tags(experiment, data))

    def _log_metrics(self, metrics: list[Metric]) -> None:
        with reported(self.uri):
            for start in range(0, len(metrics), BATCH["metrics"]):
                self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH["metrics"]])

    def _log_files(self, folder: Path, *names: str) -> None:
        with reported(self.uri):
            for name in names:
                self.client.log_artifact(self.run_id, str(folder / name))

    def _withdraw(self, *names: str) -> None:
        """Delete those of the tags that are there: numbers are about to change, and a stop in between must show."""
        with reported(self.uri):
            tags = self.client.get_run(self.run_id).data.tags
            for name in names:
                if name in tags:
                    self.client.delete_tag(self.run_id, name)

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with reported(self.uri):
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
    summary, evaluation = read(train / "summary.json"), read(evaluate / "metrics.json")
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
    if not path.exists() or is_absent(uri):
        return False
    content = read(path)
    if content["ood_fingerprint"] != experiment.ood_fingerprint:
        return False
    with reported(uri):
        run = _run_of(uri, experiment)
        if run is None or has_ood(experiment, run):
            return False
        if run.data.tags.get("weights_sha256") != content.get("weights_sha256"):
            return False
        client, _ = open_store(uri, experiment.suite, create=False)
    TrackedRun(client, uri, run.info.run_id).log_ood(folder)
    return True


def _is_evaluated(experiment: Experiment) -> bool:
    uri = tracking_uri()
    condition = (
        f"tags.evaluated = 'true' and tags.fingerprint = '{experiment.fingerprint}' "
        f"and tags.evaluation_fingerprint = '{experiment.evaluation_fingerprint}'"
    )
    with reported(uri):
        client, experiment_id = open_store(uri, experiment.suite, create=False)
        return experiment_id is not None and next(search(client, experiment_id, condition), None) is not None


def evaluated(experiments: Iterable[Experiment]) -> set[str]:
    """Evaluation fingerprints of those of `experiments` that MLflow has the numbers of; none where there is no store.

    Raises:
        RequestError, PipelineError: as `track`.
    """
    uri = tracking_uri()
    if is_absent(uri):
        return set()
    return set(finished_runs(experiments)["evaluation_fingerprint"])


def last_epoch(experiment: Experiment) -> int:
    """The last epoch of an experiment that MLflow knows of, 0 where it knows none.

    Raises:
        RequestError, PipelineError: as `track`.
    """
    uri = tracking_uri()
    with reported(uri):
        run = _run_of(uri, experiment)
    return 0 if run is None else int(run.data.metrics.get("epoch", 0))


def mark_failed(experiment: Experiment, reason: str) -> None:
    """End the run of an experiment that is given up, if there is one: FAILED, with the reason as its tag `failure`.

    Raises:
        RequestError, PipelineError: as `track`.
    """
    uri = tracking_uri()
    with reported(uri):
        run = _run_of(uri, experiment)
        if run is not None:
            client, _ = open_store(uri, experiment.suite, create=False)
            client.set_tag(run.info.run_id, "failure", reason[-TAG_LENGTH:])
            client.set_terminated(run.info.run_id, "FAILED")


def _run_of(uri: str, experiment: Experiment) -> Run | None:
    client, experiment_id = open_store(uri, experiment.suite, create=False)
    if experiment_id is None:
        return None
    return next(search(client, experiment_id, f"tags.fingerprint = '{experiment.fingerprint}'"), None)


def _start(uri: str, experiment: Experiment, data: DataDescription, commit: str) -> TrackedRun:
    name = f"{experiment.identifier} {experiment.architecture}"
    with reported(uri):
        client, experiment_id = open_store(uri, experiment.suite, create=True)
        found = next(search(client, str(experiment_id), f"tags.fingerprint = '{experiment.fingerprint}'"), None)
        if found is None:
            tags = {"fingerprint": experiment.fingerprint, **_commit_tags(commit)}
            found = client.create_run(str(experiment_id), tags=tags, run_name=name)
        client.update_run(found.info.run_id, status="RUNNING", name=name)
    run = TrackedRun(client, uri, found.info.run_id)
    run.describe(experiment, data)
    return run


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
        for key, value in flatten(experiment.training_identity()).items()
    }
    cut = " ... (in full in experiment.json)"
    return {
        key: text if len(text) <= PARAMETER_LENGTH else text[: PARAMETER_LENGTH - len(cut)] + cut
        for key, text in texts.items()
    }
