"""Where experiments keep what they go on from."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Experiment

RUNS = Path("runs")
"""What is kept to go on from: checkpoints, journals, crafted images. By fingerprint, so never out of date."""


def working_folder(experiment: Experiment) -> Path:
    """Checkpoints, journals and the records that MLflow does not have yet, of one experiment."""
    return RUNS / experiment.fingerprint
