"""The run of an experiment while it is worked on, and what is written to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.config import Experiment
from pipeline.core.errors import Interrupted, PipelineError
from pipeline.provenance.code import digest_of
from pipeline.provenance.commit import git_commit
from pipeline.provenance.folders import working_folder
from pipeline.studies.trials import Point
from pipeline.tracking import calls
from pipeline.tracking.artifacts import flatten, read
from pipeline.tracking.calls import Call
from pipeline.tracking.delivery import Delivery, send
from pipeline.tracking.frames import TRIAL, finished_runs, has_ood, run_of
from pipeline.tracking.origin import THIS_CODE, made_by
from pipeline.tracking.spool import FOLDER, Spool
from pipeline.tracking.store import check_address, is_absent, reported, tracking_uri

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
def _opened(experiment: Experiment, data: DataDescription, commit: str, sampled: bool) -> Iterator[TrackedRun]:
    check_address(tracking_uri())
    import mlflow  # noqa: F401 - not from the thread that delivers: others import beside it

    run = TrackedRun(experiment, commit, Delivery(experiment, spool_of(experiment), sampled))
    run.start(data)
    try:
        yield run
    except BaseException as error:
        try:
            run.end("KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED")
        except (PipelineError, OSError) as unwritten:
            error.add_note(str(unwritten))  # what stopped the block is what the person must learn first
        raise
    run.end("FINISHED")


def spool_of(experiment: Experiment) -> Spool:
    """The records of an experiment that the store does not have yet."""
    return Spool(working_folder(experiment) / FOLDER)


@dataclass(frozen=True)
class TrackedRun:
    """An open run. What its methods log is on the disk when they return, and in the store soon after.

    Every method raises `OSError` when the disk is full or read-only, and `PipelineError` when a number is not finite.
    """

    experiment: Experiment
    commit: str
    delivery: Delivery

    def start(self, data: DataDescription) -> None:
        """Log what the experiment is: tags, data set, settings, parameters."""
        self._post(
            calls.started(self.experiment),
            calls.params(_parameters(self.experiment)),
            calls.dataset(data.name, data.digest, data.counts),
            calls.settings(self.experiment.model_dump(mode="json")),
            calls.tags(_tags(self.experiment, data)),
        )

    def log_epoch(self, record: Mapping[str, float]) -> None:
        """Log the history's row of one epoch at step `record["epoch"]`, unless the run has that epoch."""
        self._post(calls.epochs([record]))

    def log_training(self, folder: Path) -> None:
        """Log what `train` left in `folder`, and those epochs that a kill kept from being logged.

        Weights that differ from those that the run had take the marks off it that it is evaluated, on which corrupted
        images, and what it was compared with.
        """
        summary = flatten(read(folder / "summary.json"))
        numbers = {f"summary/{key}": value for key, value in summary.items() if isinstance(value, int | float)}
        texts = {key: value for key, value in summary.items() if isinstance(value, str) and key != "git_commit"}
        names = ("history.json", "model.safetensors", "summary.json", "code.json")
        self._post(
            calls.withdraw(
                "evaluated",
                "ood_fingerprint",
                "stability_fingerprint",
                unless={"weights_sha256": summary["weights_sha256"]},
            ),
            calls.epochs(read(folder / "history.json")),
            calls.metrics(numbers),
            calls.files(*names),
            calls.tags({**texts, **calls.commit_tags(summary["git_commit"]), "trained": "true"}),
            files=[folder / name for name in names],
        )

    def log_evaluation(self, folder: Path) -> None:
        """Log what `evaluate` left in `folder`: metrics `test/...` with the ends of their intervals, `test_low/...` and
        `test_high/...`, numbers of images `test_images/...`, verdicts, accuracies by class, signs of masking.

        Until all of it is there, the run is not marked as evaluated."""
        content, suspicious = read(folder / "metrics.json"), read(folder / "trust.json")["suspicious"]
        numbers = {f"test/{name}": value for name, value in content["metrics"].items()}
        numbers |= {f"test_images/{name}": count for name, count in content["counts"].items()}
        for end, place in (("low", 0), ("high", 1)):
            numbers |= {f"test_{end}/{name}": interval[place] for name, interval in content["intervals"].items()}
        names = ("verdicts.parquet", "metrics.json", "classes.csv", "trust.json", "evaluation_code.json")
        tags = {key: content[key] for key in ("evaluation_fingerprint", "evaluation_code")} | {"evaluated": "true"}
        self._post(
            calls.withdraw("evaluated"),
            calls.metrics(numbers),
            calls.files(*names),
            calls.tags({**tags, "gradient_masking": "suspected" if suspicious else "no sign"}),
            files=[folder / name for name in names],
        )

    def log_ood(self, folder: Path) -> None:
        """Log what `stages.ood` left in `folder`: metrics `ood/...`, the accuracies behind them, what was corrupted.

        Until all of it is there, the run is not marked as measured on corrupted images."""
        described, files = _ood_calls(folder)
        self._post(*described, files=files)

    def end(self, status: str) -> None:
        """End the run: FINISHED, KILLED or FAILED; what the store does not take now waits on the disk."""
        self.delivery.finish(calls.record(self.experiment, [calls.ended(status)], self.commit))

    def _post(self, *described: Call, files: Iterable[Path] = ()) -> None:
        self.delivery.post(calls.record(self.experiment, described, self.commit), files)


def _ood_calls(folder: Path) -> tuple[list[Call], list[Path]]:
    content = read(folder / "metrics.json")
    numbers = {f"ood/{name}": value for name, value in content["metrics"].items()}
    provenance = ", ".join(f"{kind} {value}" for kind, value in content["provenance"].items())
    names = ("corruptions.csv", "perturbations.csv")
    described = [
        calls.withdraw("ood_fingerprint"),
        calls.metrics({**numbers, "ood/images": content["images"]}),
        calls.files(*names),
        calls.tags(
            {
                "ood_fingerprint": content["ood_fingerprint"],
                "ood_code": content["ood_code"],
                "ood_provenance": provenance,
            }
        ),
    ]
    return described, [folder / name for name in names]


def ensure_logged(experiment: Experiment, directory: Path) -> bool:
    """Log an experiment from its files, where they are of it and of this code, and MLflow does not have it evaluated.

    This is how results reach MLflow that DVC restored from its cache. Where records of the experiment wait to be
    delivered, nothing is logged: they are on their way already.

    Args:
        experiment: What the files must belong to; files of other settings or other code are left alone.
        directory: `results/<suite>/<method>-<seed>`, with `train` and `evaluate` in it.

    Returns:
        Whether something was logged.

    Raises:
        RequestError, PipelineError: as `finished_runs`, except that there need not be a sqlite file yet.
    """
    train, evaluate = directory / "train", directory / "evaluate"
    if not (train / "summary.json").exists() or not (evaluate / "metrics.json").exists():
        return False
    summary, evaluation = read(train / "summary.json"), read(evaluate / "metrics.json")
    wanted = (experiment.fingerprint, experiment.evaluation_fingerprint)
    if (summary["fingerprint"], evaluation["evaluation_fingerprint"]) != wanted:
        return False
    if made_by(experiment, {**summary, **evaluation}, "train", "evaluate") != THIS_CODE:
        return False
    if len(spool_of(experiment)) or _is_evaluated(experiment):
        return False
    data = DataDescription(experiment.data.name, summary["data_digest"], {"test": evaluation["counts"]["natural"]})
    with _opened(experiment, data, summary["git_commit"], sampled=False) as run:
        run.log_training(train)
        run.log_evaluation(evaluate)
    return True


def ensure_ood_logged(experiment: Experiment, folder: Path) -> bool:
    """Log accuracies on corrupted images from their files, where MLflow has the same weights and not these numbers.

    Args:
        experiment: What the files must belong to; files of other settings, weights or code are left alone.
        folder: What `pipeline.experiments.ood.measure_ood` left.

    Returns:
        Whether something was logged.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    uri, path = tracking_uri(), folder / "metrics.json"
    if not path.exists() or is_absent(uri) or len(spool_of(experiment)):
        return False
    content = read(path)
    if content["ood_fingerprint"] != experiment.ood_fingerprint:
        return False
    if made_by(experiment, content, "ood") != THIS_CODE:
        return False
    with reported(uri):
        run = run_of(uri, experiment)
    if run is None or (has_ood(experiment, run) and made_by(experiment, run.data.tags, "ood") == THIS_CODE):
        return False
    if run.data.tags.get("weights_sha256") != content.get("weights_sha256"):
        return False
    described, files = _ood_calls(folder)
    send(spool_of(experiment), calls.record(experiment, described), experiment.identifier, files)
    return True


def log_stability(experiment: Experiment, numbers: Mapping[str, float]) -> None:
    """Log how far an experiment is from its `original`, which differs in one example: metrics `stability/...`.

    Until all of them are there, the run is not marked as compared.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        PipelineError: a number is not finite.
    """
    described = [
        calls.withdraw("stability_fingerprint"),
        calls.metrics({f"stability/{name}": value for name, value in numbers.items()}),
        calls.tags(
            {
                "stability_fingerprint": experiment.stability_fingerprint,
                "stability_code": digest_of("stability", experiment),
            }
        ),
    ]
    send(spool_of(experiment), calls.record(experiment, described), experiment.identifier)


def _is_evaluated(experiment: Experiment) -> bool:
    uri = tracking_uri()
    if is_absent(uri):
        return False
    with reported(uri):
        run = run_of(uri, experiment, evaluated=True)
    return run is not None


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
    records = [one for one in spool_of(experiment).records() if one["run"].get("training_code") == trained_by]
    waiting = [call for record in records for call in record["calls"]]
    return any(call["call"] == "tags" and wanted.items() <= call["values"].items() for call in waiting)


def last_epoch(experiment: Experiment) -> int:
    """The last epoch of an experiment that MLflow knows of, 0 where it knows none.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    uri = tracking_uri()
    with reported(uri):
        run = run_of(uri, experiment)
    return 0 if run is None else int(run.data.metrics.get("epoch", 0))


def mark_failed(experiment: Experiment, reason: str) -> None:
    """End the run of an experiment that is given up, if there is one: FAILED, with the reason as its tag `failure`.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
    """
    described = [calls.tags({"failure": reason[-TAG_LENGTH:]}), calls.ended("FAILED")]
    send(spool_of(experiment), calls.record(experiment, described), experiment.identifier)


def mark_trial(experiment: Experiment, digest: str, number: int, point: Point) -> None:
    """Let the run of an experiment, if there is one, be found as that of a trial.

    Args:
        experiment: Of the trial.
        digest: Of the search.
        number: Of the trial, from 0; a run of several trials with equal settings is found as the last one's.
        point: Its settings.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
    """
    described = calls.tags({f"{TRIAL}{digest}": json.dumps({"trial": number, **asdict(point)})})
    send(spool_of(experiment), calls.record(experiment, [described]), experiment.identifier)


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
