"""What MLflow's own pages show of a suite: which place to open, which columns, and what a run says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.config import Experiment, Params
from pipeline.core.digits import decimals
from pipeline.provenance.commit import user_name
from pipeline.tracking.store import open_store, reported

MODE = "workflowType=machine_learning"
"""MLflow 3 opens experiments as those of language models, where runs are not listed, unless an address has this."""
VIEW = "accuracies"
OVERALL = ("natural", "union", "worst_case_union")
"""Metrics of every evaluation, whatever its attacks."""


def list_of_runs(uri: str, params: Params) -> str:
    """Where a server of this store lists the suite's runs with their accuracies, below its address.

    The columns are those of the first table, as a shared view of MLflow's, which is a tag of its experiment.

    Raises:
        RequestError, PipelineError: as `open_store`, or the store fails.
    """
    with reported(uri):
        client, experiment_id = open_store(uri, params.suite, create=False)
        if experiment_id is None:
            return f"#/experiments?{MODE}"
        client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(_view(params)))
        client.set_experiment_tag(experiment_id, "mlflow.note.content", f"Suite `{params.suite}`: {params.description}")
    return f"#/experiments/{experiment_id}/runs?{MODE}&viewStateShareKey={VIEW}"


def _view(params: Params) -> dict[str, Any]:
    """The state of MLflow's list: sorted by the worst case, the columns of the first table."""
    known = {*OVERALL, *params.evaluation.attacks}
    columns = [column.metric for column in next(iter(params.tables.values())).columns] if params.tables else OVERALL
    metrics = [f"metrics.`test/{name}`" for name in columns if name in known]
    return {
        "orderByKey": "metrics.`test/worst_case_union`",
        "orderByAsc": False,
        "selectedColumns": ["attributes.`Duration`", *metrics],
    }


def own_tags(experiment: Experiment) -> dict[str, str]:
    """Tags that MLflow's pages have columns for: what made the run, and who."""
    made_by = "python -m stages.ablation" if experiment.grid else f"dvc repro evaluate@{experiment.identifier}"
    return {
        "mlflow.user": user_name(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": made_by,
        "mlflow.note.content": note(experiment, {}),
    }


def note(experiment: Experiment, evaluation: Mapping[str, Any]) -> str:
    """The description of a run, in Markdown; `evaluation` is the content of its `metrics.json`, empty before that."""
    lines = [
        f"**{experiment.name}**: {experiment.architecture} on {experiment.data.name}, seed {experiment.seed}, "
        f"{experiment.training.epochs} epochs, protocol {experiment.protocol}.",
        "",
    ]
    if evaluation:
        lines += ["| attack | accuracy (%) | 95 % interval | images |", "|:--|--:|--:|--:|"]
        names = sorted(evaluation["metrics"], key=lambda name: name not in OVERALL)  # MLflow folds what is further down
        lines += [_line(name, evaluation) for name in names if name in evaluation["intervals"]]
    elsewhere = "" if experiment.grid else f" `python -m stages.export {experiment.identifier}` gives the model away."
    return "\n".join([*lines, "", f"All settings: the artifact `experiment.json`.{elsewhere}"])


def _line(name: str, evaluation: Mapping[str, Any]) -> str:
    low, high = evaluation["intervals"][name]
    images = evaluation["counts"][name]
    digits = decimals(images)
    numbers = f"{100 * evaluation['metrics'][name]:.{digits}f} | {100 * low:.{digits}f} to {100 * high:.{digits}f}"
    return f"| {name} | {numbers} | {images:,} |"


def page_of(server: str, experiment_id: str, run_id: str) -> str:
    """The address of a run's page."""
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}?{MODE}"
