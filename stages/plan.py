"""Say what `make repro` and the ablation grid will cost: time, disk and memory, from a few steps on this machine.

With --studies, the grid alone. Exit code 1 where the grid exceeds `ablation.budget_hours` or
`ablation.budget_gigabytes` of params.yaml, without --yes.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages import cli

if TYPE_CHECKING:
    from pipeline.config import Experiment, Params


GRID = (
    cli.PARAMS,
    cli.option("--studies", nargs="+", metavar="STUDY", help="keys of 'ablation.studies' (default: all)"),
    cli.option("--seeds", nargs="+", type=int, metavar="SEED", help="default: 'seeds' of params.yaml"),
    cli.option("--suite", help="compose this suite from conf/ instead of reading params.yaml"),
    cli.YES,
    cli.WORKERS,
)
"""The arguments of stages that work on the grid."""


def chosen(given: Namespace) -> tuple[Params, list[Experiment]]:
    """The file, and the experiments of the chosen part of the grid."""
    from pipeline.grid.settings import read_params
    from pipeline.studies.cells import cells

    params = read_params(given.suite, given.params)
    grid = cells(params, given.studies, given.seeds)
    return params, list({cell.experiment.fingerprint: cell.experiment for cell in grid}.values())


def plan(given: Namespace, each: bool) -> None:
    """Print what the grid will cost; with `each`, also a line for every experiment.

    Raises:
        RequestError: the grid has impossible cells, or the data cannot be prepared.
        PipelineError: the budget is exceeded, and there is no `--yes`.
    """
    from pipeline.grid.settings import unfinished

    params, experiments = chosen(given)
    missing = unfinished(experiments)
    print(f"{len(experiments)} experiments: {len(experiments) - len(missing)} are done, {len(missing)} are not")
    if missing:
        announce(params, missing, given, "choose --studies or --seeds", each)


def announce(
    params: Params, experiments: Sequence[Experiment], given: Namespace, fewer: str, each: bool = False
) -> None:
    """Print what experiments will cost.

    Args:
        params: Has the budget.
        experiments: What is to be done; one that stands for others of the same cost is given as often.
        given: `workers`, and with `yes` no budget is kept.
        fewer: What to do where it is exceeded.
        each: Also a line for every experiment.

    Raises:
        RequestError: the data cannot be prepared.
        PipelineError: the budget is exceeded, and there is no `--yes`.
    """
    from pipeline.core.errors import PipelineError

    total, disk = tell(experiments, given.workers, given.workers, each)
    budget = params.ablation
    if (total > 3600 * budget.budget_hours or disk > 1e9 * budget.budget_gigabytes) and not given.yes:
        raise PipelineError(
            f"that exceeds the budget of {budget.budget_hours:g} h and {budget.budget_gigabytes:g} GB "
            f"(ablation.budget_hours and ablation.budget_gigabytes of params.yaml): {fewer}, or say --yes"
        )


def tell(experiments: Sequence[Experiment], workers: int, parts: int, each: bool = False) -> tuple[float, int]:
    """Print what experiments will cost; seconds of one worker, and bytes on the disk.

    Args:
        experiments: What is to be done.
        workers: At a time.
        parts: In which those that share a warm-up are done.
        each: Also a line for every experiment.

    Raises:
        RequestError: the data cannot be prepared.
    """
    from pipeline.experiments.prepare import ensure_prepared
    from pipeline.grid.groups import parts_of_warm_ups
    from pipeline.grid.plan import branch_bytes, costs, describe_bytes, describe_seconds, seconds_saved

    ensure_prepared(experiments[0])
    found = costs(experiments, workers)
    expected = [found[one.fingerprint] for one in experiments]
    for one, cost in zip(experiments, expected, strict=True) if each else []:
        seconds = f"{describe_seconds(cost.training_seconds)} + {describe_seconds(cost.evaluation_seconds)}"
        sizes = f"{describe_bytes(cost.disk_bytes)} on the disk, {describe_bytes(cost.memory_bytes)} of memory"
        print(f"  {one.identifier}: {seconds} (training + evaluation), {sizes}")
    branches = branch_bytes(experiments, found)
    total, disk = sum(cost.seconds for cost in expected), branches + sum(cost.disk_bytes for cost in expected)
    if shared := parts_of_warm_ups(experiments, parts):
        epochs = sum(len(one.method.learners) * one.training.epochs for one in experiments)
        less, saved = sum(one.learner_epochs_saved for one in shared), seconds_saved(shared, found)
        print(
            f"shared warm-ups: {epochs - less:,} instead of {epochs:,} epochs of one learner, "
            f"about {describe_seconds(saved)} less"
        )
        total -= saved
    memory = max(cost.memory_bytes for cost in expected)
    print(
        f"in all about {describe_seconds(total)} of one worker, {describe_seconds(total / workers)} with "
        f"{workers}; {describe_bytes(disk)} on the disk, {describe_bytes(branches)} of it to branch from "
        f"(training.branch_gigabytes); {describe_bytes(memory)} of memory for each worker"
    )
    return total, disk


@cli.command(*GRID)
def main(given: Namespace) -> None:
    from pipeline.grid.settings import read_params, unfinished

    if not given.studies:
        experiments = list(read_params(given.suite, given.params).experiments())
        missing = unfinished(experiments)
        print(f"make repro: {len(experiments)} experiments, {len(missing)} of them not done")
        if missing:  # evaluations at most: as if every image resisted every attack
            tell(missing, given.workers, 1, each=True)
        print("make ablation:")
    plan(given, each=True)


if __name__ == "__main__":
    raise SystemExit(main())
