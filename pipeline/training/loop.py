"""Training: Algorithm 1 and 2 of Generalist++ for any list of learners. A baseline is a list of one."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Experiment
from pipeline.core.devices import Backend
from pipeline.core.ranks import ALONE, Ranks
from pipeline.data.split import Split
from pipeline.provenance.code import UNKNOWN
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.mesh import Mesh, shared_out
from pipeline.training.observer import Observer
from pipeline.training.run import StopRequest, TrainingResult, TrainingRun


def train(
    experiment: Experiment,
    split: Split,
    backend: Backend,
    folder: Path,
    observer: Observer,
    should_stop: StopRequest = lambda: None,
    ranks: Ranks = ALONE,
    learner_parallel: bool = False,
    code: str = UNKNOWN,
) -> TrainingResult:
    """Train an experiment to its last epoch, continuing from its newest checkpoint in `folder`.

    Args:
        experiment: What to train.
        split: On which images.
        backend: On which device, in which arithmetic.
        folder: Of checkpoints; of several ranks, the first one's counts.
        observer: Told of the progress.
        should_stop: Asked after every step; one rank that is to stop stops all.
        ranks: The processes that train together, every one of which calls this function.
        learner_parallel: Each of them trains one learner instead of all on its part of the minibatch.
        code: Digest of the code that runs, kept in checkpoints; those of other code are not continued.

    Raises:
        RequestError: the minibatches or the learners cannot be shared out among the processes.
        Interrupted: `should_stop` gave a reason; a checkpoint was written first.
        PipelineError: a loss is not finite, every checkpoint is damaged, or another rank was lost.
    """
    checkpoints = CheckpointFolder(folder / "checkpoints", experiment.fingerprint, code)
    mesh = shared_out(ranks, experiment.method, backend.device) if learner_parallel else Mesh(ranks, ranks)
    run = TrainingRun(experiment, split, backend, checkpoints, mesh, observer, should_stop)
    for epoch in run.epochs_left():
        for images, labels in run.minibatches_left(epoch):
            for learner in run.training_in(epoch):
                run.step(learner, images, labels, epoch)  # theta_a <- Z_a(theta_a), Eqs. 4 and 5
            run.follow(epoch)  # theta_g <- alpha' theta_g + (1 - alpha') sum_a gamma_a theta_a, Eq. 6
            run.end_step(epoch)
        run.end_epoch(epoch)  # theta_a <- theta_g every c epochs from t' on, Eqs. 7 and 8; measure, select, save
    return run.result()
