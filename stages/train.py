"""Train one experiment of params.yaml, or continue it from its last checkpoint.

Ctrl-C or SIGTERM saves first; the same command continues. The weights go to results/, curves to MLflow as they grow.
Several processes share the minibatches, and end with the weights of one, under

    torchrun --nproc-per-node gpu -m stages.train METHOD --seed SEED

and with --learner-parallel each trains one learner, so that as many as there are learners take as long as the slowest.
Another launcher that sets the same variables of the environment is believed with --ranks-from-environment.
"""

from __future__ import annotations

from argparse import Namespace

from pipeline.core import launch as job
from stages import cli


@cli.command(
    cli.PARAMS,
    cli.METHOD,
    cli.SEED,
    cli.option(
        "--learner-parallel", action="store_true", help="under torchrun: one learner per process, or per so many"
    ),
    cli.option(job.OPTION, action="store_true", help="take RANK, WORLD_SIZE and the like from another launcher"),
    cli.STOP_AFTER,
)
def main(given: Namespace) -> None:
    if given.ranks_from_environment:
        job.believe_environment()
    time_is_over = cli.in_time(given)
    from pipeline.config.remarks import early_end
    from pipeline.core.signals import stop_on_signal
    from pipeline.experiments.train import train_experiment

    params = cli.params_of(given)
    experiment = params.experiment(given.method, given.seed)
    speaks = job.launch().rank == 0
    if speaks and (text := early_end(params, [given.method])):
        print(f"{given.params}: {text}", flush=True)
    if text := job.remark():
        print(text, flush=True)
    with stop_on_signal(second_at_once=job.launch().count == 1) as should_stop:
        folder = train_experiment(experiment, lambda: should_stop() or time_is_over(), given.learner_parallel)
    if speaks:
        print(f"trained {experiment.identifier}: {folder}")


if __name__ == "__main__":
    raise SystemExit(main())
