"""What finished runs hold: numbers, curves, files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import pandas as pd

from pipeline.config import OOD_METRICS, TRAINING_SECONDS, Experiment
from pipeline.core.errors import PipelineError, RequestError
from pipeline.provenance.code import UNKNOWN, Stage
from pipeline.studies.trials import Point
from pipeline.tracking.browsing import page_of
from pipeline.tracking.home import WAY_OUT
from pipeline.tracking.origin import THIS_CODE, made_by
from pipeline.tracking.store import (
    existing_store,
    find_runs,
    mask,
    require_store,
    tagged,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

USER_INTERFACE = "http://127.0.0.1:5000"
"""Where `make ui` shows a store that is a database."""
ARTIFACTS_AT_A_TIME = 8
TRIAL = "trial_of_"
"""With the digest of a search behind it, the tag of its trials' runs: JSON, the trial's number and settings."""
T = TypeVar("T")
_missed: set[str] = set()
"""Runs of which it was said that they lack a file."""
RUN_COLUMNS = [
    *("fingerprint", "evaluation_fingerprint", "method", "seed", "protocol", "suite", "run_id", "made_by"),
    *("ood_made_by", "end_time"),
]


def finished_runs(experiments: Iterable[Experiment], of_this_code: bool = False) -> pd.DataFrame:
    """The runs that hold the numbers of `experiments`: same fingerprint, same evaluation fingerprint, evaluated.

    Args:
        of_this_code: Leave out all that other code has made. What works on results asks for this; what shows results
            says which ones other code made. Where there is a run of this code, those of other code are left out in any
            case.

    Returns:
        One row per run and experiment (several where an experiment was run on several machines), the latest last:
        fingerprint, evaluation_fingerprint, method, seed, protocol, suite, run_id, gradient_masking, end_time (UTC),
        made_by and ood_made_by (`THIS_CODE`, `OTHER_CODE` or `UNKNOWN_CODE`; "" where it was not measured),
        page (where MLflow's web interface shows the run),
        `metric.<name>` (accuracies in [0, 1], seconds of training), `count.<name>` (number of images) and
        `stability.<name>` (what `log_stability` logged of the pair, NaN where there is nothing).

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        PipelineError: the store does not exist or is out of reach.
    """
    tags = ("fingerprint", "evaluation_fingerprint")
    found = _evaluated_runs(experiments, tags, lambda item: (item.fingerprint, item.evaluation_fingerprint))
    this = found["made_by"] == THIS_CODE
    superseded = found["evaluation_fingerprint"].isin(set(found.loc[this, "evaluation_fingerprint"]))
    return found[this if of_this_code else this | ~superseded].reset_index(drop=True)


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
    uri = mask(tracking_uri())
    with existing_store() as client:
        from mlflow.exceptions import MlflowException

        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RequestError(f"MLflow at {uri} has no run '{run_id}'") from None
    if "suite" not in run.data.tags:
        raise RequestError(f"run {run_id} of MLflow at {uri} is not one of this project: it has no tag 'suite'")
    end = run.info.end_time
    ended = "" if end is None else pd.Timestamp(end, unit="ms").strftime("%Y-%m-%dT%H:%M:%SZ")
    return StoredRun(run.info.run_id, run.info.status, ended, run.data.tags, numbers(run))


def read_experiment(run: StoredRun) -> Experiment:
    """The settings that gave an evaluated run its numbers; refused where the run holds those of another evaluation by
    now.

    Raises:
        PipelineError: the run holds the settings of another evaluation by now, or none; or as `read_artifacts`.
    """

    def read(path: Path) -> Experiment:
        return Experiment.model_validate(json.loads(path.read_text()))

    experiment = read_artifacts([run.run_id], "experiment.json", read).get(run.run_id)
    if experiment is None:
        raise PipelineError(f"run {run.run_id} has no artifact experiment.json; evaluate its experiment again")
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
    with existing_store() as client:
        there = {item.path for item in client.list_artifacts(run_id)}
        for name in names:
            if name not in there:
                raise PipelineError(f"run {run_id} has no {name} in MLflow. {WAY_OUT}")
            client.download_artifacts(run_id, name, str(folder))


def _evaluated_runs(
    experiments: Iterable[Experiment], tags: tuple[str, ...], address: Callable[[Experiment], tuple[str, ...]]
) -> pd.DataFrame:
    """The evaluated runs whose `tags` are the `address` of one of `experiments`; see `finished_runs`."""
    uri = tracking_uri()
    require_store(uri)
    wanted: dict[str, dict[tuple[str, ...], list[Experiment]]] = {}
    for experiment in experiments:
        wanted.setdefault(experiment.suite, {}).setdefault(address(experiment), []).append(experiment)
    rows = [
        _row(uri, experiment, run)
        for suite, by_address in wanted.items()
        for run in find_runs(suite, "tags.evaluated = 'true'")
        for experiment in by_address.get(tuple(run.data.tags.get(tag, "") for tag in tags), [])
    ]
    measured = sorted({key for row in rows for key in row} - set(RUN_COLUMNS))
    frame = pd.DataFrame(rows, columns=[*RUN_COLUMNS, *measured])
    frame["end_time"] = pd.to_datetime(frame["end_time"], unit="ms", utc=True)
    return frame.sort_values("end_time", kind="stable", ignore_index=True)


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


def read_selected_epochs(run_ids: Iterable[str]) -> dict[str, dict[str, float]]:
    """The records of the epochs whose weights were kept.

    Returns:
        By run, what training recorded in that epoch, by the names of `read_histories`. Runs whose files do not tell are
        left out.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    wanted = list(dict.fromkeys(run_ids))
    summaries = read_artifacts(wanted, "summary.json", lambda path: json.loads(path.read_text()))
    histories = read_artifacts(wanted, "history.json", lambda path: json.loads(path.read_text()))
    return {
        run: record
        for run, summary in summaries.items()
        for record in histories.get(run, [])
        if record["epoch"] == summary.get("selected_epoch")
    }


def read_trials(suite: str, digest: str) -> pd.DataFrame:
    """The runs of the trials of a search, known by its digest, as `mark_trial` has marked them.

    Returns:
        One row per run: `run_id`, `seed`, `trial` (its number, from 0), and the settings of a `Point` by name.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    tag = f"{TRIAL}{digest}"
    require_store(tracking_uri())
    rows = [
        {"run_id": run.info.run_id, "seed": int(run.data.tags["seed"]), **json.loads(run.data.tags[tag])}
        for run in find_runs(suite, f"tags.{tag} != ''")
    ]
    return pd.DataFrame(rows, columns=["run_id", "seed", "trial", *(field.name for field in fields(Point))])


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
    """One file of many runs, such as `history.json`; several are fetched at a time, since a server answers many
    requests as fast as one.

    Args:
        read: Gives the content of the file; a ValueError says that it is damaged.

    Returns:
        The content by run. Runs that have no such file are left out, which is said once of each.

    Raises:
        RequestError, PipelineError: as `finished_runs`; or a file is damaged.
    """
    from concurrent.futures import ThreadPoolExecutor

    wanted = list(dict.fromkeys(run_ids))
    if not wanted:
        return {}
    with existing_store() as client, TemporaryDirectory() as root, ThreadPoolExecutor(ARTIFACTS_AT_A_TIME) as pool:

        def fetch(run_id: str) -> T | None:
            if name not in {item.path for item in client.list_artifacts(run_id)}:
                return None
            try:
                return read(Path(client.download_artifacts(run_id, name, mkdtemp(dir=root))))
            except ValueError as error:
                raise PipelineError(f"MLflow run {run_id}: its artifact {name} is damaged ({error})") from None

        found = dict(zip(wanted, pool.map(fetch, wanted), strict=True))
    if lacking := [run_id for run_id, content in found.items() if content is None and run_id not in _missed]:
        _missed.update(lacking)
        runs = f"{len(lacking)} of {len(wanted)} runs, {lacking[0]} among them,"
        text = f"{runs} have no whole {name} in MLflow: what it shows is left out. {WAY_OUT}"
        print(f"warning: {text}", file=sys.stderr, flush=True)
    return {run_id: content for run_id, content in found.items() if content is not None}


def has_files(run: Run, names: Iterable[str]) -> bool:
    """Whether a run still has these artifacts."""
    with existing_store() as client:
        return set(names) <= {item.path for item in client.list_artifacts(run.info.run_id)}


def numbers(run: Run) -> dict[str, float]:
    """The metrics of a run, with what it has as tags, lest MLflow draw a chart of one bar: `summary/...` of its
    training and `test_images/...` of its evaluation, which older runs have as metrics."""
    tags = run.data.tags
    found = {f"summary/{key}": float(tags[key]) for key in ("epochs", "seconds", "selected_epoch") if key in tags}
    counts = json.loads(tags.get("test_images", "{}"))
    return {**run.data.metrics, **found, **{f"test_images/{name}": float(count) for name, count in counts.items()}}


def _row(uri: str, experiment: Experiment, run: Run) -> dict[str, Any]:
    # What MLflow keeps in place of infinity, and what is not a number, measures nothing.
    metrics = {key: value for key, value in numbers(run).items() if abs(value) < sys.float_info.max}
    tags = run.data.tags
    same = tags.get("fingerprint") == experiment.fingerprint
    return {
        "fingerprint": experiment.fingerprint,
        "evaluation_fingerprint": experiment.evaluation_fingerprint,
        "method": experiment.name,
        "seed": experiment.seed,
        "protocol": experiment.protocol if same else tags.get("protocol"),
        "suite": experiment.suite,
        "run_id": run.info.run_id,
        "made_by": made_by(experiment, tags, "train", "evaluate") if same else "",
        **{tag: tags.get(tag, UNKNOWN) for tag in ("training_code", "evaluation_code")},
        "ood_made_by": made_by(experiment, tags, "ood") if has_ood(experiment, run) else "",
        "gradient_masking": tags.get("gradient_masking"),
        "same_attacks": tags.get("evaluation_fingerprint") == experiment.evaluation_of(tags.get("fingerprint", "")),
        "page": _page(uri, run),
        "end_time": run.info.end_time or run.info.start_time,
        **{f"metric.{key[5:]}": value for key, value in metrics.items() if key.startswith("test/")},
        f"metric.{TRAINING_SECONDS}": metrics.get("summary/seconds"),
        **_ood(experiment, run),
        **_stability(experiment, run),
        **{f"count.{key[12:]}": int(value) for key, value in metrics.items() if key.startswith("test_images/")},
    }


def _page(uri: str, run: Run) -> str:
    """On the server, without a password; on the address of 'make ui' where the store is a database."""
    server = urlsplit(uri) if uri.startswith(("http://", "https://")) else urlsplit(USER_INTERFACE)
    base = server._replace(netloc=server.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return page_of(base, run.info.experiment_id, run.info.run_id)


def _ood(experiment: Experiment, run: Run) -> dict[str, Any]:
    """The metrics on corrupted images, if they were measured with the experiment's settings."""
    if not has_ood(experiment, run):
        return {}
    tags, metrics = run.data.tags, run.data.metrics
    found = {f"metric.{name}": metrics[f"ood/{name}"] for name in OOD_METRICS}
    counts = {f"count.{name}": int(metrics["ood/images"]) for name in OOD_METRICS}
    return {**found, **counts, "ood_provenance": tags["ood_provenance"]}


def _stability(experiment: Experiment, run: Run) -> dict[str, float]:
    """How far the run is from its original, if they were compared as they are now."""
    tags = run.data.tags
    if tags.get("stability_fingerprint") != experiment.stability_fingerprint:
        return {}
    if made_by(experiment, tags, "stability") != THIS_CODE:
        return {}
    return {f"stability.{key[10:]}": value for key, value in run.data.metrics.items() if key.startswith("stability/")}


def run_of(experiment: Experiment, evaluated: bool = False) -> Run | None:
    """The run of an experiment by this code, if the store has one: whatever it holds, or evaluated by this code as the
    experiment is."""
    wanted, stages = {"fingerprint": experiment.fingerprint}, list[Stage](["train"])
    if evaluated:
        wanted |= {"evaluated": "true", "evaluation_fingerprint": experiment.evaluation_fingerprint}
        stages.append("evaluate")
    found = find_runs(experiment.suite, tagged(wanted))
    return next((run for run in found if made_by(experiment, run.data.tags, *stages) == THIS_CODE), None)


def has_ood(experiment: Experiment, run: Run) -> bool:
    """Whether a run holds the metrics on corrupted images, measured with the experiment's settings."""
    found: bool = run.data.tags.get("ood_fingerprint") == experiment.ood_fingerprint
    return found
