"""Evaluate one experiment: verdicts of all attacks, what follows from them, its MLflow run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import EvaluationSettings, Experiment
from pipeline.core.devices import choose_backend
from pipeline.core.files import atomic_write, exclusive, remove_half_written, write_json, write_record, write_text
from pipeline.core.progress import EvaluationDisplay
from pipeline.data.split import open_split
from pipeline.evaluation.autoattack import flags
from pipeline.evaluation.evaluate import Evaluation, Shard
from pipeline.evaluation.journal import Journal
from pipeline.evaluation.statistics import class_accuracies, wilson
from pipeline.evaluation.trust import signs, summary
from pipeline.evaluation.verdicts import accuracies
from pipeline.experiments.prepare import check_same_data
from pipeline.experiments.results import load_trained
from pipeline.provenance.code import Code, code_of, digest_of
from pipeline.provenance.folders import evaluation_folder, journal_folder, prepared_folder, working_folder
from pipeline.provenance.keeping import EVALUATION_CODE_FILE, begin, is_of, newest
from pipeline.tracking import DataDescription, Tracker, track


def evaluate_experiment(
    experiment: Experiment,
    shard: str | None = None,
    check: Callable[[], None] = lambda: None,
    tracker: Tracker = track,
) -> dict[str, float]:
    """Attack the trained weights of an experiment, with a progress display and its MLflow run.

    Args:
        shard: 'i/n': do the i-th of n slices of the work and journal it, nothing else. Where the journals of all slices
            lie in one folder, the evaluation without a shard only gathers them.
        check: Called after every piece of work; raises to stop.
        tracker: Opens the MLflow run, or one that logs nothing.

    Returns:
        Accuracies in [0, 1] by metric; none for a shard.

    Raises:
        RequestError: the experiment is not trained with these settings, the data is not prepared, or the shard is none.
    """
    chosen = Shard() if shard is None else Shard.parse(shard)
    settings = experiment.training
    backend = choose_backend(settings.device, "float32", settings.threads, settings.compile is True)
    model = backend.place(load_trained(experiment))
    split = open_split(prepared_folder(experiment.data.name), experiment.data, experiment.stored_sizes)
    test = split.test.to(backend.device)
    folder, started = working_folder(experiment), time.perf_counter()
    check_same_data(folder, split.digest)
    journaled = journal_folder(experiment)
    journal = Journal(journaled)

    def measure() -> pd.DataFrame:
        beside, name = journaled.parent, experiment.evaluation_fingerprint
        earlier = newest(beside, f"{name}-*")
        of_these = {"fingerprint": experiment.fingerprint, "evaluation_fingerprint": name}
        if is_of(evaluation_folder(experiment) / "metrics.json", **of_these):
            earlier.insert(0, evaluation_folder(experiment) / EVALUATION_CODE_FILE)
        begin("evaluate", experiment, journaled, earlier, beside / name)
        with EvaluationDisplay(experiment.identifier) as display:
            return Evaluation(model, test, experiment.evaluation, journal, display, check).run(chosen)

    if shard is not None:
        measure()
        return {}
    data = DataDescription(experiment.data.name, split.digest, split.counts)
    with exclusive(folder / "lock", f"experiment {experiment.identifier}"), tracker(experiment, data) as run:
        identity = {
            "fingerprint": experiment.fingerprint,
            "evaluation_fingerprint": experiment.evaluation_fingerprint,
            "training_code": digest_of("train", experiment),
            "evaluation_code": digest_of("evaluate", experiment),
        }
        output, verdicts = evaluation_folder(experiment), measure()
        flagged, seconds = flags(model, test), time.perf_counter() - started
        code = code_of("evaluate", experiment)
        metrics = write_evaluation(output, verdicts, experiment.evaluation, flagged, identity, seconds, code)
        run.log_evaluation(output)
    return metrics


def write_evaluation(
    output: Path,
    verdicts: pd.DataFrame,
    settings: EvaluationSettings,
    flags: Mapping[str, str],
    identity: Mapping[str, Any],
    seconds: float,
    code: Code | None = None,
) -> dict[str, float]:
    """Write verdicts and what follows from them: metrics with intervals, accuracies by class, signs of masking.

    Kept with them are the `flags` of AutoAttack's own checks, the `identity` of what the numbers belong to, and the
    code that gave them. The result is accuracies in [0, 1] by metric.
    """
    metrics, counts = accuracies(verdicts, settings.union)
    remove_half_written(output)
    with atomic_write(output / "verdicts.parquet") as stream:
        verdicts.to_parquet(stream, index=False)
    write_text(output / "classes.csv", class_accuracies(verdicts).to_csv(index=False))
    write_json(output / "trust.json", summary(signs(verdicts, settings, flags)))
    intervals = {name: wilson(value, counts[name]) for name, value in metrics.items()}
    content = {**identity, "metrics": metrics, "counts": counts, "intervals": intervals, "seconds": seconds}
    files = ["verdicts.parquet", "classes.csv", "trust.json"]
    if code is not None:
        files.append(EVALUATION_CODE_FILE)
        write_json(output / EVALUATION_CODE_FILE, code.as_json())
    write_record(output / "metrics.json", content, files)
    return metrics
