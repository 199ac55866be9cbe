"""Train the warm-up that experiments share: their checkpoints below `runs/`, from which `train_experiment` goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from pipeline.config import Experiment
from pipeline.core.devices import Backend
from pipeline.core.progress import TrainingDisplay
from pipeline.data.split import Split, open_split
from pipeline.experiments.backend import training_backend
from pipeline.experiments.branches import begin_from_others
from pipeline.experiments.train import begin_training, checkpoints_of, locked
from pipeline.provenance.code import digest_of
from pipeline.provenance.folders import prepared_folder, warm_up_folder
from pipeline.studies.warm_ups import WarmUp, shared_warm_ups
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.warm_up import SharedTraining


def open_warm_ups(experiments: Iterable[Experiment]) -> list[WarmUp]:
    """The warm-ups that experiments share and that are not over: those under way with all of their members, others
    with the members that have not begun by themselves."""
    found = list(experiments)
    under_way = [one for one in shared_warm_ups(found) if not _under_way(one).is_empty]
    taken = {member.fingerprint for one in under_way for member in one.experiments}
    left = [one for one in found if one.fingerprint not in taken and checkpoints_of(one).is_empty]
    return [*under_way, *shared_warm_ups(left)]


def epochs_of_warm_ups(experiments: Iterable[Experiment]) -> int:
    """Epochs that are over of the warm-ups that these experiments have under way on this file system."""
    return sum(_under_way(one).epochs for one in shared_warm_ups(experiments))


def share_warm_up(warm_up: WarmUp, should_stop: Callable[[], str | None]) -> None:
    """Train a warm-up, or continue it, with a progress display; a member that can go on from what others have trained
    begins there instead.

    Raises:
        Interrupted: `should_stop`, asked after every step, gave a reason; the state was saved first.
    """
    first = warm_up.experiments[0]
    split = open_split(prepared_folder(first.data.name), first.data, first.stored_sizes)
    backend = training_backend(first, len(split.train))
    with ExitStack() as locks:
        for member in warm_up.experiments:
            locks.enter_context(locked(member))
            begin_training(member, split.digest)
            if _under_way(warm_up).is_empty:
                begin_from_others(member, split, checkpoints_of(member), backend, print)
        for left in open_warm_ups(warm_up.experiments):
            _train(left, split, backend, should_stop)


def _train(warm_up: WarmUp, split: Split, backend: Backend, should_stop: Callable[[], str | None]) -> None:
    under_way = _under_way(warm_up)
    own = {member.fingerprint: checkpoints_of(member) for member in warm_up.experiments}
    with TrainingDisplay(f"warm-up of {len(own)}", on_record=lambda record: None) as display:
        display.message(
            f"{', '.join(member.identifier for member in warm_up.experiments)} have learners in common: "
            f"{warm_up.learner_epochs} epochs of one learner instead of "
            f"{warm_up.learner_epochs + warm_up.learner_epochs_saved}"
        )
        SharedTraining(warm_up, split, backend, under_way, own, display).train(should_stop)
    shutil.rmtree(under_way.folder.parent)


def _under_way(warm_up: WarmUp) -> CheckpointFolder:
    code = "-".join(sorted({digest_of("train", member) for member in warm_up.experiments}))
    return CheckpointFolder(warm_up_folder(warm_up.fingerprint) / "checkpoints", warm_up.fingerprint, code)
