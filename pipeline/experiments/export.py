"""A trained model for others: weights, a card, RobustBench's metadata, and a place in MLflow's registry."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Experiment, Params
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import atomic_write, file_digest, write_json, write_text
from pipeline.experiments.card import model_card, robustbench_info
from pipeline.reporting.explain import locate
from pipeline.tracking import (
    RegisteredModel,
    StoredRun,
    download,
    finished_runs,
    read_experiment,
    read_run,
    register_model,
)

FILES = ["model.safetensors", "summary.json", "metrics.json"]
THREAT_MODELS = {"linf": "Linf", "l2": "L2"}
"""RobustBench's folders."""
EXAMPLE_IMAGES = 2
LONGEST_SEED = 10
"""Digits: seeds are below 2^31."""


@dataclass(frozen=True)
class StoredModel:
    """What a run holds of its model."""

    run: StoredRun
    experiment: Experiment
    summary: dict[str, Any]
    evaluation: dict[str, Any]
    """`metrics` and their `intervals` in [0, 1], `counts` of images."""


def find_run(params: Params, given: str) -> str:
    """The id of the run that is meant by a run id, an experiment such as 'at-1', or a cell such as
    'table1:at:aa_linf'.

    Raises:
        RequestError: it is none of them, the experiment has no finished run, or the cell is of several seeds.
        PipelineError: as `pipeline.tracking.finished_runs`.
    """
    if re.fullmatch(r"[0-9a-f]{32}", given):
        return read_run(given).run_id
    if ":" in given:
        method = locate(params, given)[1]
        if len(params.seeds) > 1:
            names = ", ".join(f"{method}-{seed}" for seed in params.seeds)
            raise RequestError(f"{given} is the mean of several models; name one of {names}")
        given = f"{method}-{params.seeds[0]}"
    if given in params.methods:
        given = f"{given}-{params.experiment(given, None).seed}"
    method, _, seed = given.rpartition("-")
    if not method or not seed.isdecimal() or len(seed) > LONGEST_SEED:
        raise RequestError(
            f"'{given}' is no model: expected an MLflow run id, an experiment such as at-1, or a cell such as "
            "table1:at:aa_linf"
        )
    experiment = params.experiment(method, int(seed))
    runs = finished_runs([experiment])
    if runs.empty:
        raise RequestError(f"{given} has no finished run in MLflow: 'dvc repro evaluate@{given}' makes it")
    return str(runs["run_id"].iloc[-1])


def export(run_id: str, output: Path) -> tuple[list[Path], RegisteredModel]:
    """Write the model of a run to `output` and register it; everything is taken from MLflow.

    Returns:
        The files (`model.safetensors`, `README.md`, `experiment.json`, and one JSON file in RobustBench's form for
        every norm that the standard AutoAttack was run in), and the registered version.

    Raises:
        PipelineError: the weights are not those of the run, its settings are not those that gave its numbers, or the
            copy of the weights in the registry gives other logits.
    """
    run = read_run(run_id)
    if run.tags.get("evaluated") != "true":
        raise RequestError(f"run {run_id} is not evaluated: its card would have no numbers; evaluate it first")
    with tempfile.TemporaryDirectory() as folder:
        download(run_id, FILES, Path(folder))
        model = _read(run, Path(folder))
        paths = _write(model, Path(folder, "model.safetensors"), output)
    return paths, _register(model, paths[0])


def _read(run: StoredRun, folder: Path) -> StoredModel:
    digest = file_digest(folder / "model.safetensors")
    if digest != run.tags["weights_sha256"]:
        raise PipelineError(
            f"the weights of run {run.run_id} have SHA-256 {digest}, the run says {run.tags['weights_sha256']}: the "
            "artifact store is damaged, train again"
        )
    content = {path: json.loads((folder / path).read_text()) for path in FILES if path.endswith(".json")}
    return StoredModel(run, read_experiment(run), content["summary.json"], content["metrics.json"])


def _write(model: StoredModel, weights: Path, output: Path) -> list[Path]:
    written = [output / "model.safetensors", output / "README.md", output / "experiment.json"]
    with atomic_write(written[0]) as stream, open(weights, "rb") as source:
        shutil.copyfileobj(source, stream)
    write_text(written[1], model_card(model.experiment, model.run, model.summary, model.evaluation))
    write_json(written[2], model.experiment.model_dump(mode="json"))
    for norm, folder in THREAT_MODELS.items():
        info = robustbench_info(model.experiment, model.run, model.evaluation, norm)
        if info is not None:
            written.append(output / "model_info" / model.experiment.data.name / folder / f"{_name(model)}.json")
            write_json(written[-1], info)
    return written


def _name(model: StoredModel) -> str:
    """A name within RobustBench's folder."""
    return f"{model.experiment.identifier}_{re.sub(r'[^A-Za-z0-9]+', '_', model.experiment.architecture)}"


def _register(model: StoredModel, weights: Path) -> RegisteredModel:
    import torch
    from safetensors.torch import load_file

    experiment = model.experiment
    network = experiment.build_model()
    network.load_state_dict(load_file(weights))
    generator = torch.Generator().manual_seed(0)
    channels, *sides = experiment.data.facts.shape
    if experiment.data.streaming:
        sides = 2 * [experiment.data.streaming.test_crop.size]
    shape = (EXAMPLE_IMAGES, channels, *sides)
    example = torch.rand(shape, generator=generator).numpy()
    tags = {
        "fingerprint": experiment.fingerprint,
        "seed": str(experiment.seed),
        "protocol": experiment.protocol,
        "weights_sha256": model.run.tags["weights_sha256"],
    }
    name, alias = f"{experiment.suite}-{experiment.name}", f"seed-{experiment.seed}"
    card = model_card(model.experiment, model.run, model.summary, model.evaluation)
    return register_model(model.run.run_id, network.eval(), example, name, alias, tags, card)
