"""Where the number in a table cell comes from, from MLflow alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pipeline.config import TRAINING_SECONDS, Experiment, Params, TableColumn
from pipeline.config.metrics import metric_named
from pipeline.core.errors import PipelineError, RequestError, did_you_mean
from pipeline.provenance.code import UNKNOWN, Code, Stage, changes, code_of
from pipeline.provenance.folders import state_folder
from pipeline.reporting.layout import printed
from pipeline.reporting.results import Run, fill, find, stage_of
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

WIDTH = 22
"""Width of the column of names."""


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
    table = params.tables[name]
    runs = finished_runs(params.experiments())
    others = runs_of_other_protocols(params.experiments()) if table.other_protocols else None
    found = find(params, table, runs, others)[method]
    results = fill(params, table, runs, others)
    (cell,) = results[results["method"].eq(method) & results["metric"].eq(column.metric)].to_dict("records")
    shown = printed(cell["mean"], table.digits) or "not measured yet"
    lines = [f"{address}: {shown} (mean over {cell['seeds']} of {cell['seeds_expected']} seeds)"]
    lines += [_line("measured with", text) for text in _measure(params, column)]
    lines += [_line("note", note) for note in cell["notes"]]
    for seed in params.seeds:
        lines += ["", *_seed(params.experiment(method, seed), column, found.chosen(seed, column.metric))]
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


def _line(name: str, value: object) -> str:
    return f"  {name:<{WIDTH}}{value}"


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


def _seed(experiment: Experiment, column: TableColumn, runs: list[Run]) -> Iterator[str]:
    yield f"seed {experiment.seed}"
    yield _line("experiment", f"{experiment.identifier} of suite {experiment.suite}, protocol {experiment.protocol}")
    yield _line("network, data", f"{experiment.architecture} on {experiment.data.name}")
    yield _line("fingerprint", experiment.fingerprint)
    yield _line("of the evaluation", experiment.evaluation_fingerprint)
    stage = stage_of(column)
    if not runs:
        yield _line("run", "none that is finished and evaluated with these settings has this number")
        yield _line("to measure it", f"dvc repro {stage}@{experiment.identifier}")
        return
    chosen = read_run(runs[-1]["run_id"])
    foreign = chosen.tags.get("fingerprint") != experiment.fingerprint
    measured = read_experiment(chosen) if foreign else experiment
    if foreign:
        yield from _other_protocol(measured, column, bool(runs[-1]["same_attacks"]))
    yield from _run(measured, column, chosen, runs[-1])
    if len(runs) > 1:
        rejected = ", ".join(run["run_id"] for run in runs[:-1])
        yield _line("chosen", f"finished last; these have the same settings and finished before: {rejected}")
    if foreign:
        yield _line("make it again", f"compose params.yaml with protocol={measured.protocol}, explain the cell there")
        return
    stages = " ".join(f"{name}@{experiment.identifier}" for name in dict.fromkeys(("train", "evaluate", stage)))
    commit = chosen.tags.get("git.commit", "unknown")
    yield _line("make it again", f"git checkout {commit}" if commit != "unknown" else "with the code of these digests")
    yield _line("", f"rm -rf {state_folder(experiment)}")
    yield _line("", f"dvc repro --force --single-item {stages}")


def _other_protocol(measured: Experiment, column: TableColumn, same_attacks: bool) -> Iterator[str]:
    """In what the experiment of a run that stands in differs from the one that is asked for."""
    yield _line("of another protocol", measured.protocol)
    yield _line("its fingerprint", measured.fingerprint)
    yield _line("of its evaluation", measured.evaluation_fingerprint)
    if not same_attacks:
        yield from (_line("measured with instead", text) for text in _measure(measured, column))


def _run(experiment: Experiment, column: TableColumn, run: StoredRun, row: Run) -> Iterator[str]:
    dirty = " with uncommitted changes" if run.tags.get("git.dirty") == "true" else ""
    yield _line("run", f"{run.run_id}, {run.status}, ended {run.ended}")
    yield _line("commit", f"{run.tags.get('git.commit', 'unknown')}{dirty}")
    yield from _code(experiment, column, run)
    if shared := run.tags.get("shared_warm_up"):
        yield _line("warm-up", shared)
    yield _line("data", f"sha256 {run.tags.get('data_digest', 'unknown')}")
    yield _line("weights", f"sha256 {run.tags.get('weights_sha256', 'unknown')}")
    yield _line("gradient masking", run.tags.get("gradient_masking", "not measured"))
    metric = metric_named(column.metric)
    if metric.name == TRAINING_SECONDS:
        yield _line("seconds", f"{run.metrics['summary/seconds']:.2f} on {run.tags.get('host', 'unknown')}")
    elif metric.stage == "ood":
        yield _line("value", f"{100 * run.metrics[f'ood/{column.metric}']:.4f} %")
        yield _line("images", f"{int(run.metrics['ood/images'])} of each kind, {run.tags['ood_provenance']}")
    else:
        yield _line("value", f"{100 * metric.value(row):.4f} %" if metric.scale == 100 else f"{metric.value(row):g}")
        low, high = (run.metrics.get(f"test_{end}/{column.metric}") for end in ("low", "high"))
        if low is not None and high is not None:
            yield _line("95% interval", f"{100 * low:.2f} to {100 * high:.2f} %")
        yield from _verdicts(experiment, metric.name, run)


def _code(experiment: Experiment, column: TableColumn, run: StoredRun) -> Iterator[str]:
    """Which code made the number, and in what this checkout's differs."""
    stages: dict[Stage, str] = {"train": "code.json"}
    if metric_named(column.metric).stage == "ood":
        stages["ood"] = ""
    elif column.metric != TRAINING_SECONDS:
        stages["evaluate"] = "evaluation_code.json"
    for stage, artifact in stages.items():
        recorded, maker = run.tags.get(CODE_TAGS[stage], UNKNOWN), made_by(experiment, run.tags, stage)
        yield _line(f"code, {stage}", f"{recorded}, {maker}")
        if maker == OTHER_CODE and artifact:
            with tempfile.TemporaryDirectory() as folder:
                download(run.run_id, [artifact], Path(folder))
                made = Code.from_json(json.loads(Path(folder, artifact).read_text()))
            yield from (_line("  differs in", text) for text in changes(made, code_of(stage, experiment)))
    for one in json.loads(run.tags.get("vouched", "[]")):
        yield _line("vouched for", f"{one['stage']}, by {one['who']}, {one['when']}: {one['reason']}")


def _verdicts(experiment: Experiment, metric: str, run: StoredRun) -> Iterator[str]:
    """Counts from the verdicts of every image, which must give the run's number again."""
    from pipeline.evaluation.verdicts import accuracies

    with tempfile.TemporaryDirectory() as folder:
        download(run.run_id, ["verdicts.parquet"], Path(folder))
        verdicts = pd.read_parquet(Path(folder, "verdicts.parquet"))
    for name in metric_named(metric).attacks(experiment.evaluation) or ["natural"]:
        yield _line("verdicts", f"{name}: {_counts(verdicts, name)}")
    again = accuracies(verdicts, experiment.evaluation.union)[0].get(metric)
    if again is not None and abs(again - run.metrics[f"test/{metric}"]) > 1e-9:
        raise PipelineError(
            f"run {run.run_id} contradicts itself: its verdicts give {metric} = {again}, its metrics say "
            f"{run.metrics[f'test/{metric}']}; evaluate it again"
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
    by_member = ", ".join(f"{member} {count}" for member, count in fooled[fooled != ""].value_counts().items())
    return f"{text}: {mistakes} without an attack, {len(wrong) - mistakes} fooled" + (
        f" ({by_member})" if by_member else ""
    )
