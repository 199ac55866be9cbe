"""Train one experiment of params.yaml, or continue it from its last checkpoint.

Ctrl-C or SIGTERM saves first; the same command continues. The weights go to results/, curves to MLflow as they grow.
Several processes share the minibatches, and end with the weights of one, under

    torchrun --nproc-per-node gpu -m stages.train METHOD --seed SEED

and with --learner-parallel each trains one learner, so that as many as there are learners take as long as the slowest.
"""

from __future__ import annotations

import os
import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.experiment_parser(__doc__)
    parser.add_argument(
        "--learner-parallel", action="store_true", help="under torchrun: one learner per process, or per so many"
    )
    cli.add_stop_after(parser)
    given = parser.parse_args(arguments)
    time_is_over = cli.in_time(given)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.config.remarks import early_end
        from pipeline.core.signals import stop_on_signal
        from pipeline.experiments.train import train_experiment

        params = load_params(given.params)
        experiment = params.experiment(given.method, given.seed)
        if os.environ.get("RANK", "0") == "0" and (remark := early_end(params, [given.method])):
            print(f"{given.params}: {remark}", flush=True)
        with stop_on_signal(second_at_once="TORCHELASTIC_RUN_ID" not in os.environ) as should_stop:
            folder = train_experiment(experiment, lambda: should_stop() or time_is_over(), given.learner_parallel)
        if os.environ.get("RANK", "0") == "0":
            print(f"trained {experiment.identifier}: {folder}")

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
