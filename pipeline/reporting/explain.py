"""Where the number in a table cell comes from, from MLflow alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pandas as pd

from pipeline.config import TRAINING_SECONDS, Experiment, Metric, Params, TableColumn
from pipeline.config.metrics import metric_named
from pipeline.core.errors import PipelineError, RequestError, did_you_mean
from pipeline.core.files import read_frame
from pipeline.evaluation.verdicts import accuracies
from pipeline.provenance.code import UNKNOWN, Code, Stage, changes, code_of
from pipeline.provenance.folders import state_folder
from pipeline.reporting.layout import printed
from pipeline.reporting.results import Run, fill, find, measured
from pipeline.tracking import (
    CODE_TAGS,
    OTHER_CODE,
    StoredRun,
    download,
    finished_runs,
    made_by,
    read_experiment,
    read_run,
    runs_of_other_protocols,
)

Facts = Iterator[tuple[str, object]]
"""Lines of the answer: what is told, and what it is."""
WIDTH = 22
"""Width of the column of names."""
T = TypeVar("T")


def explain(params: Params, address: str) -> str:
    """What is behind one cell.

    Args:
        params: Declares the table.
        address: 'table:method:metric', for example 'table1:generalist_t:aa_linf'.

    Returns:
        Lines of text: the number, the attack, and for each seed experiment, fingerprints, run, commit, digests, verdict
        counts and the command that makes it again; for a seed without a run, the command that measures it.

    Raises:
        RequestError: there is no such cell.
        PipelineError: as `pipeline.tracking.finished_runs`; or the verdicts contradict the number.
    """
    name, method, column = locate(params, address)
    table, metric = params.tables[name], metric_named(column.metric)
    runs = finished_runs(params.experiments())
    others = runs_of_other_protocols(params.experiments()) if table.other_protocols else None
    found = find(params, table, runs, others)[method]
    results = fill(params, table, runs, others)
    (cell,) = results[results["method"].eq(method) & results["metric"].eq(metric.name)].to_dict("records")
    shown = printed(cell["mean"], cell["digits"]) or "not measured yet"
    lines = [f"{address}: {shown} (mean over {cell['seeds']} of {cell['seeds_expected']} seeds)"]
    lines += _lines(("measured with", text) for text in _measure(params, column))
    lines += _lines(("note", note) for note in cell["notes"])
    for seed in params.seeds:
        facts = _seed(params.experiment(method, seed), column, measured(found[seed], metric))
        lines += ["", f"seed {seed}", *_lines(facts)]
    if column.relative_to is not None:
        lines += ["", f"relative to: explain {name}:{column.relative_to}:{column.metric}"]
    return "\n".join(lines)


def locate(params: Params, address: str) -> tuple[str, str, TableColumn]:
    """Key of the table, method and column that an address names.

    Raises:
        RequestError: there is no such cell; the message lists what there is.
    """
    parts = address.split(":")
    if len(parts) != 3:
        raise RequestError(f"'{address}' is no cell: expected table:method:metric, such as table1:at:aa_linf")
    keys = {table.file or key: key for key, table in params.tables.items()} | {key: key for key in params.tables}
    if parts[0] not in keys:
        raise RequestError(f"unknown table '{parts[0]}': {did_you_mean(parts[0], sorted(keys))}")
    table = params.tables[keys[parts[0]]]
    if parts[1] not in table.rows:
        raise RequestError(f"{parts[0]} has no row '{parts[1]}': {did_you_mean(parts[1], table.rows)}")
    columns = {column.metric: column for column in table.columns}
    if parts[2] not in columns:
        raise RequestError(f"{parts[0]} has no column '{parts[2]}': {did_you_mean(parts[2], list(columns))}")
    return keys[parts[0]], parts[1], columns[parts[2]]


def _lines(facts: Facts) -> list[str]:
    return [f"  {name:<{WIDTH}}{value}" for name, value in facts]


def _measure(source: Params | Experiment, column: TableColumn) -> Iterator[str]:
    """The attacks behind a metric with all their settings in `source`, or what it is instead."""
    metric, evaluation = metric_named(column.metric), source.evaluation
    for name in metric.attacks(evaluation):
        settings = evaluation.attacks[name].model_dump(mode="json")
        kind, images = settings.pop("name"), settings.pop("images")
        shown = ", ".join(f"{key} {value}" for key, value in settings.items())
        yield f"{name}: {kind}, {shown}, {images or 'all'} images, seed {evaluation.seed}"
    yield from metric.explained(source)
    if metric.name == TRAINING_SECONDS:
        yield f"seconds of all training steps{f', divided by those of {column.relative_to}' * bool(column.relative_to)}"


def _seed(experiment: Experiment, column: TableColumn, runs: list[Run]) -> Facts:
    yield "experiment", f"{experiment.identifier} of suite {experiment.suite}, protocol {experiment.protocol}"
    yield "network, data", f"{experiment.architecture} on {experiment.data.name}"
    yield "fingerprint", experiment.fingerprint
    yield "of the evaluation", experiment.evaluation_fingerprint
    yield from (("starts from", f"{one.file}, sha256 {one.sha256}") for one in experiment.initial_weights)
    metric = metric_named(column.metric)
    if not runs:
        yield "run", "none that is finished and evaluated with these settings has this number"
        yield "to measure it", f"dvc repro {metric.stage}@{experiment.identifier}"
        return
    chosen = read_run(runs[-1]["run_id"])
    foreign = chosen.tags.get("fingerprint") != experiment.fingerprint
    used = read_experiment(chosen) if foreign else experiment
    if foreign:  # in what the experiment of a run that stands in differs
        yield "of another protocol", used.protocol
        yield "its fingerprint", used.fingerprint
        yield "of its evaluation", used.evaluation_fingerprint
        if not runs[-1]["same_attacks"]:
            yield from (("measured with instead", text) for text in _measure(used, column))
    yield from _run(used, metric, chosen, runs[-1])
    if len(runs) > 1:
        rejected = ", ".join(run["run_id"] for run in runs[:-1])
        yield "chosen", f"finished last; these have the same settings and finished before: {rejected}"
    if foreign:
        yield "make it again", f"compose params.yaml with protocol={used.protocol}, explain the cell there"
        return
    stages = " ".join(f"{name}@{experiment.identifier}" for name in dict.fromkeys(("train", "evaluate", metric.stage)))
    commit = chosen.tags.get("git.commit", "unknown")
    yield "make it again", f"git checkout {commit}" if commit != "unknown" else "with the code of these digests"
    yield "", f"rm -rf {state_folder(experiment)}"
    yield "", f"dvc repro --force --single-item {stages}"


def _run(experiment: Experiment, metric: Metric, run: StoredRun, row: Run) -> Facts:
    dirty = " with uncommitted changes" if run.tags.get("git.dirty") == "true" else ""
    yield "run", f"{run.run_id}, {run.status}, ended {run.ended}"
    yield "commit", f"{run.tags.get('git.commit', 'unknown')}{dirty}"
    yield from _code(experiment, metric, run)
    if shared := run.tags.get("shared_warm_up"):
        yield "warm-up", shared
    yield "data", f"sha256 {run.tags.get('data_digest', 'unknown')}"
    yield "weights", f"sha256 {run.tags.get('weights_sha256', 'unknown')}"
    yield "gradient masking", run.tags.get("gradient_masking", "not measured")
    if metric.name == TRAINING_SECONDS:
        yield "seconds", f"{run.metrics['summary/seconds']:.2f} on {run.tags.get('host', 'unknown')}"
    elif metric.stage == "ood":
        yield "value", f"{100 * run.metrics[f'ood/{metric.name}']:.4f} %"
        yield "images", f"{int(run.metrics['ood/images'])} of each kind, {run.tags['ood_provenance']}"
    else:
        yield "value", f"{100 * metric.value(row):.4f} %" if metric.scale == 100 else f"{metric.value(row):g}"
        low, high = (run.metrics.get(f"test_{end}/{metric.name}") for end in ("low", "high"))
        if low is not None and high is not None:
            yield "95% interval", f"{100 * low:.2f} to {100 * high:.2f} %"
        yield from _verdicts(experiment, metric, run)


def _code(experiment: Experiment, metric: Metric, run: StoredRun) -> Facts:
    """Which code made the number, and in what this checkout's differs."""
    stages: dict[Stage, str] = {"train": "code.json"}
    if metric.stage == "ood":
        stages["ood"] = ""
    elif metric.name != TRAINING_SECONDS:
        stages["evaluate"] = "evaluation_code.json"
    for stage, artifact in stages.items():
        recorded, maker = run.tags.get(CODE_TAGS[stage], UNKNOWN), made_by(experiment, run.tags, stage)
        yield f"code, {stage}", f"{recorded}, {maker}"
        if maker == OTHER_CODE and artifact:
            made = Code.from_json(_read(run, artifact, lambda path: json.loads(path.read_text())))
            yield from (("  differs in", text) for text in changes(made, code_of(stage, experiment)))
    for one in json.loads(run.tags.get("vouched", "[]")):
        yield "vouched for", f"{one['stage']}, by {one['who']}, {one['when']}: {one['reason']}"


def _read(run: StoredRun, artifact: str, read: Callable[[Path], T]) -> T:
    with tempfile.TemporaryDirectory() as folder:
        download(run.run_id, [artifact], Path(folder))
        return read(Path(folder, artifact))


def _verdicts(experiment: Experiment, metric: Metric, run: StoredRun) -> Facts:
    """Counts from the verdicts of every image, which must give the run's number again."""
    verdicts: pd.DataFrame = _read(run, "verdicts.parquet", read_frame)
    for name in metric.attacks(experiment.evaluation) or ["natural"]:
        yield "verdicts", f"{name}: {_counts(verdicts, name)}"
    again = accuracies(verdicts, experiment.evaluation.union)[0].get(metric.name)
    if again is not None and abs(again - run.metrics[f"test/{metric.name}"]) > 1e-9:
        raise PipelineError(
            f"run {run.run_id} contradicts itself: its verdicts give {metric.name} = {again}, its metrics say "
            f"{run.metrics[f'test/{metric.name}']}; evaluate it again"
        )


def _counts(verdicts: pd.DataFrame, attack: str) -> str:
    of_attack = verdicts[verdicts["attack"] == attack].set_index("image")
    natural = verdicts[verdicts["attack"] == "natural"].set_index("image")["correct"].reindex(of_attack.index)
    right, wrong = int(of_attack["correct"].sum()), of_attack[~of_attack["correct"]]
    text = f"{len(of_attack)} images, {right} right, {len(wrong)} wrong"
    if attack == "natural":
        return text
    mistakes = int((~natural[wrong.index].astype(bool)).sum())
    fooled = wrong["fooled_by"].astype(str)
    members = ", ".join(f"{member} {count}" for member, count in fooled[fooled != ""].value_counts().items())
    by_member = f" ({members})" if members else ""
    return f"{text}: {mistakes} without an attack, {len(wrong) - mistakes} fooled{by_member}"
