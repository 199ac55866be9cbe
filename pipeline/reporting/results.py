"""Which number belongs into which cell of a table, and what fills the cells that are empty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from pipeline.config import OOD_METRICS, TRAINING_SECONDS, Experiment, Params, TableColumn, TableSettings
from pipeline.tracking import finished_runs

REGENERATED = "Regenerated images, not the released files."
MASKING = "There are signs of gradient masking: see `trust.json` of this run."


def collect(params: Params, table: TableSettings) -> pd.DataFrame:
    """The cells of a table, from MLflow; see `fill`.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.finished_runs`.
    """
    return fill(
        params, table, finished_runs(params.experiment(name, seed) for name in _methods(table) for seed in params.seeds)
    )


def fill(params: Params, table: TableSettings, runs: pd.DataFrame) -> pd.DataFrame:
    """The cells of a table, from the frame that `finished_runs` gives.

    Only a run with the experiment's fingerprint and evaluation fingerprint fills a cell; of several, the last that
    finished.

    Returns:
        One row per method and metric, in the table's order: `method`; `metric`; `mean` and `std` (over seeds, sample
        standard deviation; percent, seconds or a ratio; NaN where there is none); `seeds` found and `seeds_expected`;
        `images` (NA where unknown); `missing` (no seed has a number); `command` that measures the missing seeds (""
        when none is); `note` for the reader ("" when there is nothing to say).
    """
    found = {
        name: {seed: _matching(runs, params.experiment(name, seed)) for seed in params.seeds}
        for name in _methods(table)
    }
    cells = [_cell(method, column, found) for method in table.rows for column in table.columns]
    for cell in cells:
        attack = params.evaluation.attacks.get(cell["metric"])
        if attack is not None and attack.name == "autoattack" and _masks(found[cell["method"]]):
            cell["note"] = f"{cell['note']} {MASKING}".strip()
        if cell["metric"] in OOD_METRICS and not cell["missing"] and _regenerated(found[cell["method"]]):
            cell["note"] = f"{cell['note']} {REGENERATED}".strip()
    return pd.DataFrame(cells).astype({"images": "Int64"})


def measure(
    experiments: Mapping[str, Mapping[int, Experiment]], metrics: Iterable[str], runs: pd.DataFrame
) -> pd.DataFrame:
    """Metrics of any experiments, whether or not they are those of a method of the file.

    Args:
        experiments: By a name of your choice and seed.
        metrics: As `fill`.
        runs: As `fill`.

    Returns:
        One row per name and metric, in order: `name`, and `metric`, `mean`, `std`, `seeds`, `seeds_expected`, `images`,
        `missing` as `fill`.
    """
    found = {
        name: {seed: _matching(runs, experiment) for seed, experiment in seeded.items()}
        for name, seeded in experiments.items()
    }
    columns = [TableColumn(metric=metric, label=metric) for metric in metrics]
    cells = [_cell(name, column, found) for name in experiments for column in columns]
    frame = pd.DataFrame(cells).rename(columns={"method": "name"}).astype({"images": "Int64"})
    return frame.drop(columns=["command", "note"])


def latest_runs(experiments: Iterable[Experiment], runs: pd.DataFrame) -> dict[int, str]:
    """By seed, the MLflow run that counts for each of a method's experiments; those without one are left out."""
    matching = {experiment.seed: _matching(runs, experiment) for experiment in experiments}
    return {seed: str(frame.iloc[-1]["run_id"]) for seed, frame in matching.items() if len(frame)}


def _masks(runs: dict[int, pd.DataFrame]) -> bool:
    """Whether the last run of any seed shows signs of gradient masking."""
    return any(len(frame) and frame.iloc[-1].get("gradient_masking") == "suspected" for frame in runs.values())


def _regenerated(runs: dict[int, pd.DataFrame]) -> bool:
    """Whether any seed was measured on corrupted images of our own."""
    return any(len(frame) and "regenerated" in str(frame.iloc[-1].get("ood_provenance")) for frame in runs.values())


def _methods(table: TableSettings) -> list[str]:
    """The methods whose runs a table needs."""
    return list(dict.fromkeys([*table.rows, *(column.relative_to or table.rows[0] for column in table.columns)]))


def _matching(runs: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """The runs of one experiment, the one that finished last at the end."""
    same = runs["fingerprint"].eq(experiment.fingerprint)
    same &= runs["evaluation_fingerprint"].eq(experiment.evaluation_fingerprint)
    # Aliases, methods with equal settings, share their runs: each run counts once.
    return runs[same].drop_duplicates("run_id").sort_values("end_time", kind="stable")


def _cell(method: str, column: TableColumn, found: dict[str, dict[int, pd.DataFrame]]) -> dict[str, Any]:
    values, images, notes, missing = [], [], [], []
    for seed in found[method]:
        names = [method, column.relative_to or method]
        runs, reference = (_measured(found[name][seed], column.metric) for name in names)
        if runs.empty or reference.empty:
            lacking = method if runs.empty else column.relative_to
            stage = "ood/dvc.yaml:ood" if column.metric in OOD_METRICS else "evaluate"
            missing.append(f"{stage}@{lacking}-{seed}")
            continue
        values.append(_value(column, runs.iloc[-1], reference.iloc[-1]))
        count = runs.iloc[-1].get(f"count.{column.metric}", math.nan)
        images += [] if math.isnan(count) else [int(count)]
        if runs[f"metric.{column.metric}"].nunique() > 1 and column.metric != TRAINING_SECONDS:
            notes.append(f"Runs of {method} with seed {seed} differ; the one that finished last is used.")
    return {
        "method": method,
        "metric": column.metric,
        "mean": fmean(values) if values else math.nan,
        "std": stdev(values) if len(values) > 1 else math.nan,
        "seeds": len(values),
        "seeds_expected": len(found[method]),
        "images": max(images) if images else None,
        "missing": not values,
        "command": f"dvc repro {' '.join(missing)}" if missing else "",
        "note": " ".join(notes),
    }


def _measured(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Those runs that have the metric."""
    return runs[runs[f"metric.{metric}"].notna()] if f"metric.{metric}" in runs else runs.iloc[:0]


def _value(column: TableColumn, run: pd.Series, reference: pd.Series) -> float:
    """What the cell says for one seed: percent, seconds, or the ratio to another method's value."""
    key = f"metric.{column.metric}"
    if column.relative_to is not None:
        return float(run[key]) / float(reference[key])
    return float(run[key]) * (1 if column.metric == TRAINING_SECONDS else 100)
