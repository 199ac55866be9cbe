"""Read what an experiment has left below `results/`, or say which command makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import Experiment
from pipeline.core.errors import RequestError
from pipeline.core.files import Damaged, read_frame, read_kept, read_record
from pipeline.provenance.code import UNKNOWN, changes, code_of, digest_of, named
from pipeline.provenance.folders import evaluation_folder, training_folder
from pipeline.provenance.keeping import CODE_FILE, EVALUATION_CODE_FILE, read_code

WEIGHTS_FILE, SETTINGS_FILE = "model.safetensors", "experiment.json"
"""What a folder of trained weights has."""


def load_trained(experiment: Experiment) -> Any:
    """The network of an experiment with its trained weights, in eval mode, on the CPU.

    Raises:
        RequestError: there are no weights, they are damaged, or they belong to other settings.
    """
    folder = training_folder(experiment)
    way_out = _way_out("train", experiment)
    summary = read_kept(folder / "summary.json", f"{experiment.identifier} is not trained", way_out)
    if summary["fingerprint"] != experiment.fingerprint:
        raise RequestError(
            f"the weights in {folder} belong to experiment {summary['fingerprint']}, params.yaml now declares "
            f"{experiment.fingerprint}; {way_out}"
        )
    if summary.get("training_code", UNKNOWN) != digest_of("train", experiment):
        what = named(changes(read_code(folder / CODE_FILE), code_of("train", experiment)))
        raise RequestError(f"the weights in {folder} were trained by other code: {what}; {way_out}")
    return _fitted(experiment, load_file(folder / WEIGHTS_FILE), folder, way_out)


def _fitted(experiment: Experiment, weights: dict[str, Tensor], folder: Path, way_out: str) -> Any:
    model = experiment.build_model()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RequestError(
            f"the trained weights in {folder} do not fit {experiment.architecture} ({' '.join(str(error).split())}); "
            f"{way_out}"
        ) from None
    return model.to(memory_format=torch.channels_last).eval()


def read_model(folder: Path) -> Any:
    """The network in a folder of weights, in eval mode, on the CPU: whatever the settings and the code here are now.

    Args:
        folder: With `model.safetensors` and `experiment.json`, as training and `stages.export` leave one; or an
            experiment's folder below `results/`.

    Raises:
        RequestError: it is no such folder, or its files are damaged.
    """
    found = next((one for one in (folder, folder / "train") if (one / WEIGHTS_FILE).is_file()), None)
    if found is None:
        raise RequestError(f"{folder}: has no {WEIGHTS_FILE}; expected the folder that training or an export wrote")
    try:
        weights = load_file(found / WEIGHTS_FILE)
    except SafetensorError as error:
        raise Damaged(f"{found / WEIGHTS_FILE}: is damaged ({error}); train or export again") from None
    return _fitted(read_settings(found), weights, found, "train or export again")


def read_settings(folder: Path) -> Experiment:
    """The experiment whose weights a folder has.

    Raises:
        RequestError: its settings are missing, damaged, or of another version of this project.
    """
    path = folder / SETTINGS_FILE
    try:
        return Experiment.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RequestError(f"{path}: is missing; expected the folder that training or an export wrote") from None
    except (ValidationError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise RequestError(f"{path}: is damaged or of another version ({said}); train or export again") from None


def load_verdicts(experiment: Experiment) -> pd.DataFrame:
    """The verdicts of an experiment.

    Raises:
        RequestError: it is not evaluated with these settings, or its files are damaged.
    """
    folder = evaluation_folder(experiment)
    way_out = _way_out("evaluate", experiment)
    record = read_kept(folder / "metrics.json", f"{experiment.identifier} is not evaluated", way_out)
    if record["evaluation_fingerprint"] != experiment.evaluation_fingerprint:
        raise RequestError(f"the verdicts in {folder} belong to other settings than params.yaml's; {way_out}")
    if record.get("evaluation_code", UNKNOWN) != digest_of("evaluate", experiment):
        what = named(changes(read_code(folder / EVALUATION_CODE_FILE), code_of("evaluate", experiment)))
        raise RequestError(f"the verdicts in {folder} were given by other code: {what}; {way_out}")
    return read_frame(folder / "verdicts.parquet")


def check_results(experiment: Experiment) -> None:
    """Refuse (Damaged) what an experiment has left below `results/` if it is not as it was written; what is not there
    is not missed.

    Raises:
        Damaged: a file is not; the message says which command writes it anew.
    """
    for stage, record in (
        ("train", training_folder(experiment) / "summary.json"),
        ("evaluate", evaluation_folder(experiment) / "metrics.json"),
    ):
        try:
            read_record(record)
        except FileNotFoundError:
            continue
        except Damaged as error:
            raise Damaged(f"{error}; {_way_out(stage, experiment)}") from None


def _way_out(stage: str, experiment: Experiment) -> str:
    command = f"python -m stages.{stage} {experiment.name} --seed {experiment.seed}"
    return "run 'make ablation' first" if experiment.grid else f"run '{command}' first"
