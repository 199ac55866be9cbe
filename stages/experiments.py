"""Train and evaluate the experiments of params.yaml, several at a time, and record the results for DVC.

    python -m stages.experiments                        # all that DVC finds changed
    python -m stages.experiments at-1 generalist_t-1    # these alone

Does what 'dvc repro' would do with the stages 'train' and 'evaluate', one process for both and all imports done once.
Learners that several experiments have in common are trained once, until their mixtures hand back: the results have the
same bits ('training: {share_warm_ups: false}' in params.yaml trains each by itself).
One that fails takes no other along. Ctrl-C, SIGTERM or the end of the time of --stop-after saves first; the same
command continues. With --stop-after experiments begin in the order of params.yaml, else those that take longest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import Interrupted, PipelineError
from pipeline.core.machine import threads_each
from pipeline.core.waiting import kind, speaking
from stages import cli, evaluate, train

if TYPE_CHECKING:
    from pipeline.config import Experiment
    from pipeline.studies.warm_ups import WarmUp

IMPORTED = (
    "mlflow.store.tracking.sqlalchemy_store",
    "pipeline.experiments.evaluate",
    "pipeline.experiments.train",
    "pyarrow.parquet",
    "pyautoattack.checks",
    "sklearn.datasets",
)
"""What every experiment needs, in seconds; imported before the processes part."""
STAGES = ("train", "evaluate")
DVC = kind("DVC", "DVC, which works one command at a time in a folder")


@cli.command(
    cli.PARAMS,
    cli.option("experiment", nargs="*", help="METHOD-SEED of params.yaml (default: all)"),
    cli.option("--jobs", type=cli.positive, default=2, help="experiments at a time (default: %(default)s)"),
    cli.STOP_AFTER,
)
def main(given: Namespace) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads_each(given.jobs))  # read when torch is imported
    experiments = chosen(list(cli.params_of(given).experiments()), given.experiment)
    changed = changed_in_dvc(list(experiments))
    if changed:
        to_train = {name for name, stages in changed.items() if "train" in stages}
        wanted, others = {name: experiments[name] for name in changed}, len(experiments) - len(changed)
        run(given.params, wanted, to_train, given.jobs, given.stop_after, others)


def chosen(experiments: Sequence[Experiment], names: Sequence[str]) -> dict[str, Experiment]:
    """The experiments that are named, all where none is.

    Raises:
        RequestError: there is none of such a name.
    """
    by_name = {one.identifier: one for one in experiments}
    cli.check_known("experiment", names, by_name)
    return {name: one for name, one in by_name.items() if name in (names or by_name)}


def changed_in_dvc(names: Sequence[str]) -> dict[str, list[str]]:
    """The experiments of which DVC would run a stage, each with those stages."""
    status = json.loads(_dvc("status", "--json", *(f"{stage}@{name}" for name in names for stage in STAGES)))
    found = {name: [stage for stage in STAGES if f"{stage}@{name}" in status] for name in names}
    return {name: stages for name, stages in found.items() if stages}


def run(
    params: Path,
    experiments: dict[str, Experiment],
    to_train: set[str],
    jobs: int,
    stop_after: float | None = None,
    others: int = 0,
) -> None:
    """Train those experiments that are named in `to_train`, evaluate all, `jobs` at a time, and record what is done.

    `others` are done already.

    Raises:
        Interrupted: a signal stopped them, or `stop_after` seconds were over; all is saved.
        PipelineError: some failed; says which.
    """
    for module in IMPORTED:
        import_module(module)
    from pipeline.core.board import Board
    from pipeline.experiments.side_by_side import side_by_side
    from pipeline.experiments.warm_up import open_warm_ups
    from pipeline.grid.plan import passes_left, passes_of_evaluation

    warm_ups = {f"warm-up {one.fingerprint}": one for one in open_warm_ups(experiments[name] for name in to_train)}
    after = {member.identifier: name for name, one in warm_ups.items() for member in one.experiments}
    after |= twins(experiments)
    shared = {
        member.experiment.identifier: one.lasts_for(member) for one in warm_ups.values() for member in one.members
    }
    in_order = list(experiments)
    if stop_after is None:
        in_order.sort(key=lambda name: -passes_left(experiments[name], shared.get(name, 0)))
    else:
        # Processes that are forked do not inherit the timer: they get the SIGTERM that this one passes on.
        signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, stop_after)

    def work(name: str) -> int:
        if name in warm_ups:
            return _share(warm_ups[name])
        one = experiments[name]
        arguments = [one.name, "--seed", str(one.seed), "--params", str(params)]
        return (name in to_train and train.main(arguments)) or evaluate.main(arguments)

    passes = {name: {"train": passes_of(one)} for name, one in warm_ups.items()}
    for name, one in experiments.items():
        passes[name] = {"train": passes_left(one, 0)} if name in to_train else {}
        passes[name]["evaluate"] = passes_of_evaluation(one)
    given = {name: epochs / experiments[name].training.epochs for name, epochs in shared.items()}
    board = Board(passes, others, experiments, "experiments", jobs, given)
    ended = side_by_side(work, [*warm_ups, *in_order], jobs, board, after)
    signal.setitimer(signal.ITIMER_REAL, 0)
    _record(experiments, {name: code for name, code in ended.items() if name in experiments})


def _record(experiments: Mapping[str, Experiment], codes: Mapping[str, int]) -> None:
    """Let DVC know of those that are done; raises as `run` where some are not."""
    done = [name for name, code in codes.items() if code == 0]
    if done:
        _dvc("commit", "--force", "--quiet", *(f"{stage}@{name}" for name in done for stage in STAGES))
    failed = {name: code for name, code in codes.items() if code not in (0, Interrupted.exit_code)}
    if failed:
        listed = ", ".join(f"{name} (exit code {code})" for name, code in failed.items())
        raise PipelineError(
            f"{len(failed)} of {len(experiments)} experiments failed, {len(done)} are done: {listed}. What each "
            "said stands above; the same command tries those again that are not done."
        )
    if len(done) < len(experiments):
        raise Interrupted(f"{len(done)} of {len(experiments)} experiments are done; the same command continues")


def twins(experiments: Mapping[str, Experiment]) -> dict[str, str]:
    """By name the one before it with the same settings, whose training and verdicts it takes when they are there."""
    first: dict[str, str] = {}
    same = {name: first.setdefault(one.fingerprint, name) for name, one in experiments.items()}
    return {name: other for name, other in same.items() if name != other}


def passes_of(warm_up: WarmUp) -> float:
    """What a warm-up costs, as `passes_left`."""
    from pipeline.grid.plan import passes_left

    whole = [(one, one.experiment.training.epochs - warm_up.lasts_for(one)) for one in warm_up.members]
    alone = sum(passes_left(one.experiment, apart) for one, apart in whole)
    return alone * warm_up.learner_epochs / (warm_up.learner_epochs + warm_up.learner_epochs_saved)


def _share(warm_up: WarmUp) -> int:
    """Train what experiments have in common; where that fails, each of them is trained by itself."""

    def stage() -> None:
        from pipeline.core.signals import stop_on_signal
        from pipeline.experiments.warm_up import share_warm_up

        with stop_on_signal() as should_stop:
            share_warm_up(warm_up, should_stop)

    return cli.run(stage)


def _dvc(*arguments: str) -> str:
    """What a command of DVC prints.

    Raises:
        PipelineError: it failed; it said why.
    """
    command = ["dvc", "--wait-for-lock", *arguments]
    with speaking(DVC, f"'dvc {arguments[0]}', or before it another command of DVC in this folder"):
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode != 0:
        raise PipelineError(f"'{' '.join(command[:3])} ...' ended with exit code {ended.returncode}; it said why above")
    return ended.stdout


if __name__ == "__main__":
    raise SystemExit(main())
