"""One experiment from data to verdicts: training, evaluation, their files and their MLflow run.

`train` and `evaluate` leave plain files below `results/`, which DVC keeps; everything that a tracker, a table or a
report needs is in them. Checkpoints and journals are below `runs/`, which DVC never deletes.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import Experiment
from pipeline.errors import RequestError
from pipeline.files import atomic_write, exclusive, file_digest, write_json
from pipeline.progress import EvaluationDisplay, TrainingDisplay
from pipeline.provenance import git_commit, versions


def prepared_folder(dataset: str) -> Path:
    """The uint8 tensors of a data set, made by `prepare`."""
    return Path("data/prepared") / dataset


def working_folder(experiment: Experiment) -> Path:
    """Checkpoints and journals of one experiment."""
    return Path("runs") / experiment.fingerprint


def results_folder(experiment: Experiment) -> Path:
    """What an experiment leaves: the outputs of its DVC stages."""
    return Path("results") / experiment.suite / experiment.identifier


def training_folder(experiment: Experiment) -> Path:
    """The files that `train_experiment` leaves: weights, curves, settings, summary."""
    return results_folder(experiment) / "train"


def evaluation_folder(experiment: Experiment) -> Path:
    """The files that `evaluate_experiment` leaves: verdicts and metrics."""
    return results_folder(experiment) / "evaluate"


def train_experiment(experiment: Experiment, should_stop: Callable[[], str | None]) -> Path:
    """Train an experiment, or continue it, with a progress display and its MLflow run.

    Returns:
        The folder of `model.safetensors`, `history.json`, `experiment.json` and `summary.json`.

    Raises:
        RequestError: the data is not prepared, or another process trains this experiment.
        Interrupted: `should_stop` gave a reason; a checkpoint was written first.
        PipelineError: a loss is not finite, every checkpoint is damaged, or the tracking server is out of reach.
    """
    from pipeline.data.images import load_split
    from pipeline.devices import choose_backend
    from pipeline.tracking import DataDescription, track
    from pipeline.training.loop import train

    settings, folder = experiment.training, working_folder(experiment)
    split = load_split(prepared_folder(experiment.data.name), experiment.data)
    backend = choose_backend(settings.device, settings.precision, settings.threads)
    data = DataDescription(experiment.data.name, split.digest, {"train": len(split.train), "test": len(split.test)})
    with exclusive(folder / "lock", f"experiment {experiment.identifier}"), track(experiment, data) as run:
        with TrainingDisplay(experiment.identifier, on_record=run.log_epoch) as display:
            result = train(experiment, split, backend, folder, display, should_stop)
        _write_training(
            experiment, result.model, result.history, result.selected_epoch, split.digest, str(backend.device)
        )
        run.log_training(training_folder(experiment))
    return training_folder(experiment)


def _write_training(
    experiment: Experiment,
    model: Any,
    history: list[dict[str, float]],
    selected_epoch: int,
    data_digest: str,
    device: str,
) -> None:
    from safetensors.torch import save

    folder = training_folder(experiment)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as stream:
        stream.write(save(weights, metadata={"fingerprint": experiment.fingerprint}))
    write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    write_json(folder / "history.json", history)
    summary = {
        "fingerprint": experiment.fingerprint,
        "data_digest": data_digest,
        "weights_sha256": file_digest(folder / "model.safetensors"),
        "epochs": experiment.training.epochs,
        "selected_epoch": selected_epoch,
        "seconds": sum(record["seconds"] for record in history),
        "device": device,
        "host": socket.gethostname(),
        "git_commit": git_commit(),
        **versions(),
    }
    write_json(folder / "summary.json", summary)


def evaluate_experiment(experiment: Experiment) -> dict[str, float]:
    """Attack the trained weights of an experiment, with a progress display and its MLflow run.

    Returns:
        Accuracies in [0, 1] by metric.

    Raises:
        RequestError: the experiment is not trained with these settings, or the data is not prepared.
        PipelineError: a journal entry is damaged, or the tracking server is out of reach.
    """
    from pipeline.data.images import load_split
    from pipeline.devices import choose_backend
    from pipeline.evaluation.evaluate import Evaluation
    from pipeline.evaluation.journal import Journal
    from pipeline.evaluation.verdicts import accuracies
    from pipeline.tracking import DataDescription, track

    backend = choose_backend(experiment.training.device, "float32", experiment.training.threads)
    model = load_trained(experiment).to(backend.device)
    split = load_split(prepared_folder(experiment.data.name), experiment.data)
    folder, started = working_folder(experiment), time.perf_counter()
    journal = Journal(folder / "evaluation" / experiment.evaluation_fingerprint)
    data = DataDescription(experiment.data.name, split.digest, {"train": len(split.train), "test": len(split.test)})
    with exclusive(folder / "lock", f"experiment {experiment.identifier}"), track(experiment, data) as run:
        with EvaluationDisplay(experiment.identifier) as display:
            test = split.test.to(backend.device)
            verdicts = Evaluation(model, test, experiment.evaluation, journal, display).run()
        metrics, counts = accuracies(verdicts, experiment.evaluation.union)
        output = evaluation_folder(experiment)
        with atomic_write(output / "verdicts.parquet") as stream:
            verdicts.to_parquet(stream, index=False)
        content = {
            "fingerprint": experiment.fingerprint,
            "evaluation_fingerprint": experiment.evaluation_fingerprint,
            "metrics": metrics,
            "counts": counts,
            "seconds": time.perf_counter() - started,
        }
        write_json(output / "metrics.json", content)
        run.log_evaluation(output)
    return metrics


def load_trained(experiment: Experiment) -> Any:
    """The network of an experiment with its trained weights, in eval mode, on the CPU.

    Raises:
        RequestError: there are no weights, or they belong to other settings.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from pipeline.models import build_model

    folder = training_folder(experiment)
    way_out = f"run 'python -m stages.train {experiment.name} --seed {experiment.seed}' first"
    try:
        trained = json.loads((folder / "summary.json").read_text())["fingerprint"]
        weights = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise RequestError(f"{experiment.identifier} is not trained: {error.filename} is missing; {way_out}") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise RequestError(f"the trained weights in {folder} are damaged ({error}); {way_out}") from None
    if trained != experiment.fingerprint:
        raise RequestError(
            f"the weights in {folder} belong to experiment {trained}, params.yaml now declares "
            f"{experiment.fingerprint}; {way_out}"
        )
    model = build_model(experiment.architecture, experiment.data.name, experiment.model.normalization)
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last).eval()
