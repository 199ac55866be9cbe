"""Train one experiment of params.yaml, or continue it from its last checkpoint.

Ctrl-C or SIGTERM saves first; the same command continues. The weights go to results/, curves to MLflow as they grow.
Several processes share the minibatches, and end with the weights of one, under

    torchrun --nproc-per-node gpu -m stages.train METHOD --seed SEED

and with --learner-parallel each trains one learner, so that as many as there are learners take as long as the slowest.
"""

from __future__ import annotations

import os
from argparse import Namespace

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.METHOD,
    cli.SEED,
    cli.option(
        "--learner-parallel", action="store_true", help="under torchrun: one learner per process, or per so many"
    ),
    cli.STOP_AFTER,
)
def main(given: Namespace) -> None:
    """The command."""
    time_is_over = cli.in_time(given)
    from pipeline.config.remarks import early_end
    from pipeline.core.signals import stop_on_signal
    from pipeline.experiments.train import train_experiment

    params = cli.params_of(given)
    experiment = params.experiment(given.method, given.seed)
    if os.environ.get("RANK", "0") == "0" and (remark := early_end(params, [given.method])):
        print(f"{given.params}: {remark}", flush=True)
    with stop_on_signal(second_at_once="TORCHELASTIC_RUN_ID" not in os.environ) as should_stop:
        folder = train_experiment(experiment, lambda: should_stop() or time_is_over(), given.learner_parallel)
    if os.environ.get("RANK", "0") == "0":
        print(f"trained {experiment.identifier}: {folder}")


if __name__ == "__main__":
    raise SystemExit(main())
