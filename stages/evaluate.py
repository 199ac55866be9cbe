"""Evaluate the trained weights of one experiment; a killed evaluation goes on where it was.

Verdicts per image and attack go to results/ and to MLflow.
"""

from __future__ import annotations

import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.experiment_parser(__doc__)
    parser.add_argument("--shard", metavar="i/n", help="do the i-th of n slices and journal it; see docs/evaluation.md")
    cli.add_stop_after(parser)
    given = parser.parse_args(arguments)
    time_is_over = cli.in_time(given)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.core.errors import Interrupted
        from pipeline.experiments.evaluate import evaluate_experiment
        from pipeline.provenance.folders import working_folder

        experiment = load_params(given.params).experiment(given.method, given.seed)
        with cli.stop_at_once() as stopped:

            def check() -> None:
                stopped()
                if reason := time_is_over():
                    raise Interrupted(f"{reason}: what is finished is journaled; the same command continues from there")

            metrics = evaluate_experiment(experiment, given.shard, check)
        if given.shard:
            print(f"shard {given.shard} of {experiment.identifier} is journaled below {working_folder(experiment)}")
            return
        print(
            f"evaluated {experiment.identifier}: " + ", ".join(f"{key} {value:.2%}" for key, value in metrics.items())
        )

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
