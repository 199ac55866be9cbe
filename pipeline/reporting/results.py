"""Which number belongs into which cell of a table, and what fills the cells that are empty."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from pipeline.config import Experiment, Params, TableSettings
from pipeline.tracking import finished_runs


def collect(params: Params, table: TableSettings) -> pd.DataFrame:
    """The cells of a table, from MLflow; see `fill`.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.finished_runs`.
    """
    return fill(
        params, table, finished_runs(params.experiment(row, seed) for row in table.rows for seed in params.seeds)
    )


def fill(params: Params, table: TableSettings, runs: pd.DataFrame) -> pd.DataFrame:
    """The cells of a table, from the frame that `finished_runs` gives.

    Only a run with the experiment's fingerprint and evaluation fingerprint fills a cell; of several, the last that
    finished.

    Returns:
        One row per method and metric, in the table's order: `method`; `metric`; `mean` and `std` (over seeds, sample
        standard deviation; percent; NaN where there is none); `seeds` found and `seeds_expected`; `images` (NA where
        unknown); `missing` (no seed has a number); `command` that measures the missing seeds ("" when none is);
        `note` for the reader ("" when there is nothing to say).
    """
    cells = []
    for method in table.rows:
        found = {seed: _matching(runs, params.experiment(method, seed)) for seed in params.seeds}
        cells += [_cell(method, column.metric, found) for column in table.columns]
    return pd.DataFrame(cells).astype({"images": "Int64"})


def _matching(runs: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """The runs of one experiment, the one that finished last at the end."""
    same = runs["fingerprint"].eq(experiment.fingerprint)
    same &= runs["evaluation_fingerprint"].eq(experiment.evaluation_fingerprint)
    # Aliases, methods with equal settings, share their runs: each run counts once.
    return runs[same].drop_duplicates("run_id").sort_values("end_time", kind="stable")


def _cell(method: str, metric: str, found: dict[int, pd.DataFrame]) -> dict[str, Any]:
    values, images, notes, missing = [], [], [], []
    for seed, runs in found.items():
        measured = runs[runs[f"metric.{metric}"].notna()] if f"metric.{metric}" in runs else runs.iloc[:0]
        if measured.empty:
            missing.append(f"evaluate@{method}-{seed}")
            continue
        last = measured.iloc[-1]
        values.append(100 * float(last[f"metric.{metric}"]))
        if f"count.{metric}" in runs and not math.isnan(last[f"count.{metric}"]):
            images.append(int(last[f"count.{metric}"]))
        if measured[f"metric.{metric}"].nunique() > 1:
            notes.append(f"Runs of {method} with seed {seed} differ; the one that finished last is used.")
    return {
        "method": method,
        "metric": metric,
        "mean": fmean(values) if values else math.nan,
        "std": stdev(values) if len(values) > 1 else math.nan,
        "seeds": len(values),
        "seeds_expected": len(found),
        "images": max(images) if images else None,
        "missing": not values,
        "command": f"dvc repro {' '.join(missing)}" if missing else "",
        "note": " ".join(notes),
    }
