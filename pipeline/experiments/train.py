"""Train one experiment: its files below `results/`, its checkpoints below `runs/`, its MLflow run.

`results/` is what DVC keeps; everything that a tracker, a table or a report needs is in it. DVC never deletes `runs/`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from safetensors.torch import save

from pipeline.config import Experiment
from pipeline.core.files import atomic_write, exclusive, file_digest, remove_half_written, write_json, write_record
from pipeline.core.progress import TrainingDisplay
from pipeline.data.split import open_split
from pipeline.experiments.backend import training_backend
from pipeline.experiments.branches import begin_from_others, keep_within_budget
from pipeline.experiments.prepare import check_same_data
from pipeline.provenance.code import code_of, digest_of
from pipeline.provenance.commit import git_commit, versions
from pipeline.provenance.folders import prepared_folder, state_folder, training_folder, working_folder
from pipeline.provenance.keeping import CODE_FILE, begin, is_of, newest
from pipeline.tracking import DataDescription, Tracker, track
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.distributed import joined
from pipeline.training.loop import train
from pipeline.training.observer import Silent
from pipeline.training.run import TrainingResult
from pipeline.training.weights import own_tensors


def train_experiment(
    experiment: Experiment,
    should_stop: Callable[[], str | None],
    learner_parallel: bool = False,
    tracker: Tracker = track,
) -> Path:
    """Train an experiment, or continue it, with a progress display and its MLflow run.

    Under torchrun together with the other processes: the first one alone writes files, shows progress and tracks.

    Args:
        should_stop: Asked after every step for a reason to save and stop.
        learner_parallel: Under torchrun, each process trains one learner; otherwise all on its part of a minibatch.
        tracker: Opens the MLflow run, or one that logs nothing.

    Returns:
        The folder of `model.safetensors`, `history.json`, `experiment.json` and `summary.json`.

    Raises:
        Interrupted: `should_stop` gave a reason; a checkpoint was written first.
        PipelineError: a loss is not finite, every checkpoint is damaged, or another process was lost.
    """
    state, code = state_folder(experiment), digest_of("train", experiment)
    split = open_split(prepared_folder(experiment.data.name), experiment.data, experiment.stored_sizes)
    backend = training_backend(experiment, len(split.train))
    with joined(backend.device) as ranks:
        if not ranks.is_first:
            train(experiment, split, backend, state, Silent(), should_stop, ranks, learner_parallel, code)
            return training_folder(experiment)
        data = DataDescription(experiment.data.name, split.digest, split.counts)
        with locked(experiment):
            begin_training(experiment, split.digest)
            begin_from_others(experiment, split, checkpoints_of(experiment), backend, print)
            with tracker(experiment, data) as run:
                with TrainingDisplay(experiment.identifier, on_record=run.log_epoch) as display:
                    result = train(
                        experiment, split, backend, state, display, should_stop, ranks, learner_parallel, code
                    )
                _write_training(experiment, result, split.digest, str(backend.device))
                keep_within_budget(experiment)
                run.log_training(training_folder(experiment))
    return training_folder(experiment)


def checkpoints_of(experiment: Experiment) -> CheckpointFolder:
    """The checkpoints of an experiment by this code."""
    folder, code = state_folder(experiment) / "checkpoints", digest_of("train", experiment)
    return CheckpointFolder(folder, experiment.fingerprint, code)


def locked(experiment: Experiment) -> AbstractContextManager[None]:
    """Keep other processes from an experiment."""
    return exclusive(working_folder(experiment) / "lock", f"experiment {experiment.identifier}")


def begin_training(experiment: Experiment, data_digest: str) -> None:
    """Note with an experiment's checkpoints which data and which code they are of, and say what is trained anew.

    Raises:
        RequestError: what is there was trained on other data, or initial weights are missing or others.
    """
    folder = working_folder(experiment)
    for weights in {one.file: one for one in experiment.initial_weights}.values():
        weights.require()
        print(f"{experiment.identifier} starts from {weights.file}", flush=True)
    check_same_data(folder, data_digest)
    earlier = newest(folder, "*")
    if is_of(training_folder(experiment) / "summary.json", fingerprint=experiment.fingerprint):
        earlier.insert(0, training_folder(experiment) / CODE_FILE)
    begin("train", experiment, state_folder(experiment), earlier, folder / "checkpoints")


def _write_training(experiment: Experiment, result: TrainingResult, data_digest: str, device: str) -> None:
    folder = training_folder(experiment)
    remove_half_written(folder)
    with atomic_write(folder / "model.safetensors") as stream:
        stream.write(save(own_tensors(result.model), metadata={"fingerprint": experiment.fingerprint}))
    write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    write_json(folder / "history.json", result.history)
    write_json(folder / CODE_FILE, code_of("train", experiment).as_json())
    summary = {
        "fingerprint": experiment.fingerprint,
        "training_code": digest_of("train", experiment),
        "data_digest": data_digest,
        "weights_sha256": file_digest(folder / "model.safetensors"),
        "epochs": experiment.training.epochs,
        "selected_epoch": result.selected_epoch,
        "seconds": sum(record["seconds"] for record in result.history),
        **({"shared_warm_up": result.shared} if result.shared else {}),
        "device": device,
        "host": socket.gethostname(),
        "git_commit": git_commit(),
        **versions(),
    }
    write_record(folder / "summary.json", summary, ["model.safetensors", "experiment.json", "history.json", CODE_FILE])
