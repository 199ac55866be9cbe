"""Go on from what other settings of a method have trained, as long as they mean the same up to there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.config import Experiment
from pipeline.core.devices import Backend
from pipeline.core.errors import RequestError
from pipeline.data.split import Split
from pipeline.experiments.results import read_settings
from pipeline.provenance.folders import RUNS, training_folder
from pipeline.studies.course import Course
from pipeline.training.checkpoint import CheckpointFolder, drop_branch_points


def begin_from_others(
    experiment: Experiment, split: Split, own: CheckpointFolder, backend: Backend, say: Callable[[str], None]
) -> None:
    """Leave an experiment that has not begun the furthest state of others that is also its own, and say which.

    The state has the same bits as if the experiment had been trained up to there. Where none fits and the folder of
    results has the same experiment with earlier settings, say what keeps it from going on from there.
    """
    if not own.is_empty or experiment.training.theory is not None or not experiment.training.branch_gigabytes:
        return
    course = Course.of(experiment, len(split.train), split.digest)
    points = (commit for folder in _folders() for commit in folder.glob("*.json"))
    if point := own.branch_from(points, course.keys, backend.device):
        say(f"{experiment.identifier} goes on from {point.with_suffix('.pt')}: its settings mean the same up to there")
    elif reason := _parting(experiment, course, split):
        say(f"{experiment.identifier} is trained from the start: it leaves what was trained before {reason}")


def keep_within_budget(experiment: Experiment) -> None:
    """Drop branch points of any experiment, those used least recently first, until they fit `branch_gigabytes`."""
    drop_branch_points(_folders(), experiment.training.branch_gigabytes * 1e9)


def _folders() -> Iterator[Path]:
    """The checkpoints of every experiment, of any code."""
    yield from RUNS.glob("*/checkpoints")
    yield from RUNS.glob("*/*/checkpoints")


def _parting(experiment: Experiment, course: Course, split: Split) -> str | None:
    """Where and in what an experiment leaves the one of the same name whose results are there."""
    try:
        before = read_settings(training_folder(experiment))
    except RequestError:
        return None
    return course.leaves(Course.of(before, len(split.train), split.digest))
