"""The run of an experiment while it is worked on, and what is written to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Experiment
from pipeline.core.errors import Interrupted, PipelineError, RequestError
from pipeline.provenance.code import digest_of
from pipeline.provenance.commit import git_commit
from pipeline.studies.trials import Point
from pipeline.tracking.browsing import note, own_tags
from pipeline.tracking.delivery import Delivery, send
from pipeline.tracking.frames import TRIAL, finished_runs, has_files, has_ood, run_of
from pipeline.tracking.origin import THIS_CODE, made_by
from pipeline.tracking.spool import spool_of
from pipeline.tracking.store import check_address, is_absent, tracking_uri
from pipeline.tracking.updates import Update, commit_tags, run_name

PARAMETER_LENGTH = 500
TAG_LENGTH = 4000


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

    What is logged is written to the disk and sent beside the block: a store that is out of reach, hangs, refuses or is
    damaged stops nothing. One warning names it; what it has not taken by the end of the block is delivered later.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
    """
    with _opened(experiment, data, git_commit(), sampled=True) as run:
        yield run


@contextmanager
def untracked(experiment: Experiment, data: DataDescription) -> Iterator[TrackedRun]:
    """Stand in for `track` where MLflow is to learn nothing: what is logged goes nowhere."""
    yield TrackedRun(experiment, _Nowhere())


class _Nowhere:
    """Takes records, and keeps none."""

    def post(self, update: Update, folder: Path = Path()) -> None:
        """Forget a record."""


@contextmanager
def _opened(experiment: Experiment, data: DataDescription, commit: str, sampled: bool) -> Iterator[TrackedRun]:
    check_address(tracking_uri())
    _check_variables()  # which imports MLflow, not from the thread that delivers: others import beside it
    delivery = Delivery(experiment, commit, sampled)
    delivery.post(_description(experiment, data))
    try:
        yield TrackedRun(experiment, delivery)
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED"
        try:
            delivery.finish(Update(status=status))
        except (PipelineError, OSError) as unwritten:
            error.add_note(str(unwritten))  # what stopped the block is what the person must learn first
        raise
    delivery.finish(Update(status="FINISHED"))


def _check_variables() -> None:
    """Refuse values that MLflow does not take: it would ask for them, and fail, in the middle of work."""
    from mlflow import environment_variables

    for variable in vars(environment_variables).values():
        if isinstance(name := getattr(variable, "name", None), str) and name in os.environ:
            try:
                variable.get()
            except ValueError as error:
                raise RequestError(f"{error}; correct or unset this variable of the environment") from None


@dataclass(frozen=True)
class TrackedRun:
    """An open run. What its methods log is on the disk when they return, and in the store soon after.

    Every method raises `OSError` when the disk is full or read-only, and `PipelineError` when a number is not finite.
    """

    experiment: Experiment
    delivery: Delivery | _Nowhere

    def log_epoch(self, record: Mapping[str, float]) -> None:
        """Log the history's row of one epoch at step `record["epoch"]`, unless the run has that epoch."""
        self.delivery.post(Update(epochs=[record]))

    def log_training(self, folder: Path) -> None:
        """Log what `train` left in `folder`, and those epochs that a kill kept from being logged.

        Weights that differ from those that the run had take the marks off it that it is evaluated, on which corrupted
        images, and what it was compared with.
        """
        self.delivery.post(_training(folder), folder)

    def log_evaluation(self, folder: Path) -> None:
        """Log what `evaluate` left in `folder`: metrics `test/...`, numbers of images as the tag `test_images`,
        verdicts, accuracies by class, signs of masking; intervals are in the description of the run.

        Until all of it is there, the run is not marked as evaluated."""
        self.delivery.post(_evaluation(self.experiment, folder), folder)

    def log_ood(self, folder: Path) -> None:
        """Log what `stages.ood` left in `folder`: metrics `ood/...`, the accuracies behind them, what was corrupted.

        Until all of it is there, the run is not marked as measured on corrupted images."""
        self.delivery.post(_ood(folder), folder)


Tracker = Callable[[Experiment, DataDescription], AbstractContextManager[TrackedRun]]
"""`track`, or `untracked`."""


def _description(experiment: Experiment, data: DataDescription) -> Update:
    """What the experiment is: tags, data set, settings, and what the fingerprint covers as parameters."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in _flatten(experiment.training_identity()).items()
    }
    cut = " ... (in full in experiment.json)"
    return Update(
        name=run_name(experiment),
        params={
            key: text if len(text) <= PARAMETER_LENGTH else text[: PARAMETER_LENGTH - len(cut)] + cut
            for key, text in texts.items()
        },
        data=asdict(data),
        settings=experiment.model_dump(mode="json"),
        tags={
            "suite": experiment.suite,
            "method": experiment.name,
            "protocol": experiment.protocol,
            "seed": str(experiment.seed),
            "dataset": data.name,
            "data_digest": data.digest,
            "architecture": experiment.architecture,
            **own_tags(experiment),
        },
    )


def _training(folder: Path) -> Update:
    summary = _flatten(_read(folder / "summary.json"))
    # Numbers, too: each as a metric would be a chart of one bar.
    texts = {key: str(value) for key, value in summary.items() if key != "git_commit"}
    return Update(
        withdraw=("evaluated", "ood_fingerprint", "stability_fingerprint"),
        unless={"weights_sha256": summary["weights_sha256"]},
        epochs=_read(folder / "history.json"),
        files=("history.json", "model.safetensors", "summary.json", "code.json"),
        tags={**texts, **commit_tags(summary["git_commit"]), "trained": "true"},
    )


def _evaluation(experiment: Experiment, folder: Path) -> Update:
    content, suspicious = _read(folder / "metrics.json"), _read(folder / "trust.json")["suspicious"]
    numbers = {f"test/{name}": value for name, value in content["metrics"].items()}
    tags = {key: content[key] for key in ("evaluation_fingerprint", "evaluation_code")} | {"evaluated": "true"}
    tags["test_images"] = json.dumps(content["counts"])
    tags["mlflow.note.content"] = note(experiment, content)
    return Update(
        withdraw=("evaluated",),
        metrics=numbers,
        files=("verdicts.parquet", "metrics.json", "classes.csv", "trust.json", "evaluation_code.json"),
        tags={**tags, "gradient_masking": "suspected" if suspicious else "no sign"},
    )


def _ood(folder: Path) -> Update:
    content = _read(folder / "metrics.json")
    numbers = {f"ood/{name}": value for name, value in content["metrics"].items()}
    provenance = ", ".join(f"{kind} {value}" for kind, value in content["provenance"].items())
    return Update(
        withdraw=("ood_fingerprint",),
        metrics={**numbers, "ood/images": content["images"]},
        files=("corruptions.csv", "perturbations.csv"),
        tags={key: content[key] for key in ("ood_fingerprint", "ood_code")} | {"ood_provenance": provenance},
    )


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _read(path: Path) -> Any:
    """The content of a file that a stage wrote. Raises PipelineError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: is missing; run its stage again ('dvc repro')") from None
    except ValueError as error:
        raise PipelineError(f"{path}: is damaged ({error}); run its stage again ('dvc repro --force')") from None


def ensure_logged(experiment: Experiment, directory: Path) -> bool:
    """Log an experiment from its files, unless MLflow has all of it; whether something was logged.

    So results reach MLflow that DVC restored from its cache, and artifacts that were lost. Files of other settings or
    other code are left alone. Where records of the experiment wait to be delivered, nothing is logged: they are on
    their way.

    Raises:
        RequestError, PipelineError: as `finished_runs`, except that there need not be a sqlite file yet.
    """
    train, evaluate = directory / "train", directory / "evaluate"
    if not (train / "summary.json").exists() or not (evaluate / "metrics.json").exists():
        return False
    summary, evaluation = _read(train / "summary.json"), _read(evaluate / "metrics.json")
    wanted = (experiment.fingerprint, experiment.evaluation_fingerprint)
    if (summary["fingerprint"], evaluation["evaluation_fingerprint"]) != wanted:
        return False
    if made_by(experiment, {**summary, **evaluation}, "train", "evaluate") != THIS_CODE:
        return False
    if len(spool_of(experiment)):
        return False
    run = run_of(experiment, evaluated=True)
    if run is not None and has_files(run, [*_training(train).files, *_evaluation(experiment, evaluate).files]):
        return False
    data = DataDescription(experiment.data.name, summary["data_digest"], {"test": evaluation["counts"]["natural"]})
    with _opened(experiment, data, summary["git_commit"], sampled=False) as opened:
        opened.log_training(train)
        opened.log_evaluation(evaluate)
    return True


def ensure_ood_logged(experiment: Experiment, folder: Path) -> bool:
    """Log accuracies on corrupted images from the files that `measure_ood` left, where MLflow has the same weights and
    not these numbers; whether something was logged. Files of other settings, weights or code are left alone.

    Raises:
        RequestError, PipelineError: as `finished_runs`, except that there need not be a sqlite file yet.
    """
    path = folder / "metrics.json"
    if not path.exists() or len(spool_of(experiment)):
        return False
    content = _read(path)
    if content["ood_fingerprint"] != experiment.ood_fingerprint or made_by(experiment, content, "ood") != THIS_CODE:
        return False
    run = run_of(experiment)
    if run is None:
        return False
    known = has_ood(experiment, run) and made_by(experiment, run.data.tags, "ood") == THIS_CODE
    if known and has_files(run, _ood(folder).files):
        return False
    if run.data.tags.get("weights_sha256") != content.get("weights_sha256"):
        return False
    send(experiment, _ood(folder), folder)
    return True


def log_stability(experiment: Experiment, numbers: Mapping[str, float]) -> None:
    """Log how far an experiment is from its `original`, which differs in one example: metrics `stability/...`.

    Until all of them are there, the run is not marked as compared.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        PipelineError: a number is not finite.
    """
    tags = {
        "stability_fingerprint": experiment.stability_fingerprint,
        "stability_code": digest_of("stability", experiment),
    }
    metrics = {f"stability/{name}": value for name, value in numbers.items()}
    send(experiment, Update(withdraw=("stability_fingerprint",), metrics=metrics, tags=tags))


def evaluated(experiments: Iterable[Experiment]) -> set[str]:
    """Evaluation fingerprints of those of `experiments` that MLflow has numbers of by this code; none where there is no
    store.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    if is_absent(tracking_uri()):
        return set()
    return set(finished_runs(experiments, of_this_code=True)["evaluation_fingerprint"])


def awaits_delivery(experiment: Experiment) -> bool:
    """Whether the experiment's evaluation is among the records that MLflow does not have yet.

    Raises:
        PipelineError: a record is damaged.
    """
    wanted = {
        "evaluated": "true",
        "evaluation_fingerprint": experiment.evaluation_fingerprint,
        "evaluation_code": digest_of("evaluate", experiment),
    }
    trained_by = digest_of("train", experiment)
    return any(
        record["run"].get("training_code") == trained_by
        and wanted.items() <= record.get("update", {}).get("tags", {}).items()
        for record in spool_of(experiment).records()
    )


def last_epoch(experiment: Experiment) -> int:
    """The last epoch of an experiment that MLflow knows of, 0 where it knows none.

    Raises:
        RequestError, PipelineError: as `finished_runs`, except that there need not be a sqlite file.
    """
    run = run_of(experiment)
    return 0 if run is None else int(run.data.metrics.get("epoch", 0))


def mark_failed(experiment: Experiment, reason: str) -> None:
    """End the run of an experiment that is given up, if there is one: FAILED, with the reason as its tag `failure`.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
    """
    send(experiment, Update(tags={"failure": reason[-TAG_LENGTH:]}, status="FAILED"))


def mark_cells(experiment: Experiment, settings: Mapping[str, str]) -> None:
    """Let MLflow filter and group the run of an experiment by what the ablation grid varies: by study (the tag
    `study.<name>`), the experiment's setting as a reader calls it.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
    """
    send(experiment, Update(tags={f"study.{study}": setting for study, setting in settings.items()}))


def mark_trial(experiment: Experiment, digest: str, number: int, point: Point) -> None:
    """Let the run of an experiment be found as that of a trial, which counts from 0, of the search with this digest.

    A run that belongs to several trials with equal settings is found as the last one's.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
    """
    send(experiment, Update(tags={f"{TRIAL}{digest}": json.dumps({"trial": number, **asdict(point)})}))
