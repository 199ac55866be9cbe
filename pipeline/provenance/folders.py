"""Where everything lies that an experiment has: data, checkpoints and journals, results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.provenance.code import UNKNOWN, digest_of

if TYPE_CHECKING:
    from pipeline.config import Experiment

RUNS = Path("runs")
"""What is kept to go on from: checkpoints, journals, crafted images; by fingerprint, then by the code's digest."""


MANIFEST_FILE = "manifest.json"
"""What a folder of prepared images holds, in that folder."""


def working_folder(experiment: Experiment) -> Path:
    """Whatever is kept of one experiment: its lock, the records that MLflow does not have yet, and `state_folder`."""
    return RUNS / experiment.fingerprint


def state_folder(experiment: Experiment) -> Path:
    """Checkpoints and journals of an experiment, of this code or of code that gives the same numbers."""
    digest, folder = digest_of("train", experiment), working_folder(experiment)
    return folder if digest == UNKNOWN else folder / digest


def warm_up_folder(fingerprint: str) -> Path:
    """The state of a warm-up that several experiments share, until the last of them has its own checkpoint."""
    return RUNS / "warm_ups" / fingerprint


def prepared_folder(dataset: str) -> Path:
    """What `prepare` makes of a data set."""
    return Path("data/prepared") / dataset


def results_folder(experiment: Experiment) -> Path:
    """What an experiment leaves: the outputs of its DVC stages, or apart from them those of a cell of the grid."""
    return Path("results") / ("ablation" if experiment.grid else "") / experiment.suite / experiment.identifier


def training_folder(experiment: Experiment) -> Path:
    """The files that `train_experiment` leaves: weights, curves, settings, summary."""
    return results_folder(experiment) / "train"


def evaluation_folder(experiment: Experiment) -> Path:
    """The files that `evaluate_experiment` leaves: verdicts and metrics."""
    return results_folder(experiment) / "evaluate"


def corrupted_folder(dataset: str) -> Path:
    """Where the choice between released and regenerated images is kept, and the latter."""
    return Path("data/corrupted") / dataset


def ood_folder(experiment: Experiment) -> Path:
    """What `measure_ood` leaves."""
    return results_folder(experiment) / "ood"


def journal_folder(experiment: Experiment) -> Path:
    """The journal of one evaluation, by this code or by code that gives the same numbers."""
    digest, name = digest_of("evaluate", experiment), experiment.evaluation_fingerprint
    return state_folder(experiment) / "evaluation" / (name if digest == UNKNOWN else f"{name}-{digest}")
