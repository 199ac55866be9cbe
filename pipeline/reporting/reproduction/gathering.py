"""The evidence of a suite, from MLflow alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.config import Experiment, Params
from pipeline.core.errors import PipelineError
from pipeline.core.files import read_frame
from pipeline.reporting.intervals import Verdicts, by_image
from pipeline.reporting.reproduction.record import Record, Run, Setting, Suite
from pipeline.studies.cells import cells
from pipeline.tracking import finished_runs, mask, read_artifacts, read_histories, tracking_uri


def gather(params: Params) -> Record:
    """All runs of the suite's methods and of its grid, the latest of each experiment.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.finished_runs`; the grid has impossible cells; or there is no
            finished run.
    """
    grid = cells(params)
    experiments = {one.fingerprint: one for one in (*params.experiments(), *(cell.experiment for cell in grid))}
    found = finished_runs(experiments.values()).drop_duplicates("fingerprint", keep="last")
    if found.empty:
        raise PipelineError(
            f"MLflow at {mask(tracking_uri())} has no finished run of suite '{params.suite}' with the settings of "
            "params.yaml, nothing was written. 'make ablation' trains and evaluates; MLFLOW_TRACKING_URI names another "
            "store."
        )
    rows = {row["fingerprint"]: row for row in found.to_dict("records")}
    chosen = {one.identifier: one for fingerprint, one in experiments.items() if fingerprint in rows}
    ids = {name: str(rows[one.fingerprint]["run_id"]) for name, one in chosen.items()}
    summaries = read_artifacts(ids.values(), "summary.json", lambda path: json.loads(path.read_text()))
    histories = read_histories(ids.values())
    attacked = read_artifacts(ids.values(), "verdicts.parquet", read_frame)
    verdicts: Verdicts = {}
    for name, one in chosen.items():
        verdicts.setdefault(one.name, {})[one.seed] = by_image(attacked[ids[name]])
    settings = [Setting(cell.study, cell.method, cell.setting, cell.experiment.name) for cell in grid]
    return Record(
        Suite(
            suite=params.suite,
            protocol=params.protocol,
            dataset=params.data.name,
            architecture=params.model.architecture,
            description=params.description,
            seeds=params.seeds,
            methods={name: one.label for name, one in params.methods.items()},
            attacks={name: one.model_dump(mode="json") for name, one in params.evaluation.attacks.items()},
        ),
        list(dict.fromkeys(settings)),  # each once for all seeds
        [_run(one, rows[one.fingerprint], summaries[ids[name]]) for name, one in chosen.items()],
        verdicts,
        {name: histories[run_id] for name, run_id in ids.items()},
        {name: one.model_dump(mode="json", exclude={"data": {"root"}}) for name, one in chosen.items()},
    )


def _run(experiment: Experiment, row: Mapping[Any, Any], summary: Mapping[str, Any]) -> Run:
    given = {key: value for key, value in sorted(row.items()) if not pd.isna(value)}
    metrics, images = (
        {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
        for prefix in ("metric.", "count.")
    )
    return Run(
        name=experiment.name,
        seed=experiment.seed,
        run_id=given["run_id"],
        fingerprint=experiment.fingerprint,
        evaluation_fingerprint=experiment.evaluation_fingerprint,
        commit=summary["git_commit"],
        device=summary["device"],
        torch=summary["torch"],
        seconds=float(summary["seconds"]),
        metrics={name: float(value) for name, value in metrics.items()},
        images={name: int(value) for name, value in images.items()},
        masking=given.get("gradient_masking", "not measured"),
        training_code=given["training_code"],
        evaluation_code=given["evaluation_code"],
    )
