"""Where experiments keep what they go on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import Experiment

RUNS = Path("runs")
"""What is kept to go on from: checkpoints, journals, crafted images; by fingerprint, then by the code's digest."""


def working_folder(experiment: Experiment) -> Path:
    """Whatever is kept of one experiment: its lock, the records that MLflow does not have yet, and `state_folder`."""
    return RUNS / experiment.fingerprint


def state_folder(experiment: Experiment) -> Path:
    """Checkpoints and journals of an experiment, of this code or of code that gives the same numbers."""
    from pipeline.provenance.code import UNKNOWN, digest_of

    digest, folder = digest_of("train", experiment), working_folder(experiment)
    return folder if digest == UNKNOWN else folder / digest
