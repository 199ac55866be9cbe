"""Read what an experiment has left below `results/`, or say which command makes it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.config import Experiment
from pipeline.core.errors import RequestError
from pipeline.core.files import Damaged, read_record
from pipeline.provenance.code import UNKNOWN, changes, code_of, digest_of, named
from pipeline.provenance.folders import evaluation_folder, training_folder
from pipeline.provenance.keeping import CODE_FILE, EVALUATION_CODE_FILE, read_code


def load_trained(experiment: Experiment) -> Any:
    """The network of an experiment with its trained weights, in eval mode, on the CPU.

    Raises:
        RequestError: there are no weights, they are damaged, or they belong to other settings.
    """
    folder = training_folder(experiment)
    way_out = _way_out("train", experiment)
    try:
        summary = read_record(folder / "summary.json")
        trained = summary["fingerprint"]
        weights = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise RequestError(f"{experiment.identifier} is not trained: {error.filename} is missing; {way_out}") from None
    except Damaged as error:
        raise Damaged(f"{error}; {way_out}") from None
    except SafetensorError as error:
        raise Damaged(f"{folder / 'model.safetensors'}: is damaged ({error}); {way_out}") from None
    if trained != experiment.fingerprint:
        raise RequestError(
            f"the weights in {folder} belong to experiment {trained}, params.yaml now declares "
            f"{experiment.fingerprint}; {way_out}"
        )
    if summary.get("training_code", UNKNOWN) != digest_of("train", experiment):
        what = named(changes(read_code(folder / CODE_FILE), code_of("train", experiment)))
        raise RequestError(f"the weights in {folder} were trained by other code: {what}; {way_out}")
    model = experiment.build_model()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RequestError(
            f"the trained weights in {folder} do not fit {experiment.architecture} ({' '.join(str(error).split())}); "
            f"{way_out}"
        ) from None
    return model.to(memory_format=torch.channels_last).eval()


def load_verdicts(experiment: Experiment) -> pd.DataFrame:
    """The verdicts of an experiment.

    Raises:
        RequestError: it is not evaluated with these settings, or its files are damaged.
    """
    folder = evaluation_folder(experiment)
    way_out = _way_out("evaluate", experiment)
    try:
        record = read_record(folder / "metrics.json")
        evaluated = record["evaluation_fingerprint"]
    except FileNotFoundError as error:
        raise RequestError(
            f"{experiment.identifier} is not evaluated: {error.filename} is missing; {way_out}"
        ) from None
    except Damaged as error:
        raise Damaged(f"{error}; {way_out}") from None
    if evaluated != experiment.evaluation_fingerprint:
        raise RequestError(f"the verdicts in {folder} belong to other settings than params.yaml's; {way_out}")
    if record.get("evaluation_code", UNKNOWN) != digest_of("evaluate", experiment):
        what = named(changes(read_code(folder / EVALUATION_CODE_FILE), code_of("evaluate", experiment)))
        raise RequestError(f"the verdicts in {folder} were given by other code: {what}; {way_out}")
    return pd.read_parquet(folder / "verdicts.parquet")


def check_results(experiment: Experiment) -> None:
    """Look whether what an experiment has left below `results/` is as it was written; what is not there is not missed.

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
