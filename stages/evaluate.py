"""Evaluate the trained weights of one experiment; a killed evaluation goes on where it was.

Verdicts per image and attack go to results/ and to MLflow.
"""

from __future__ import annotations

from argparse import Namespace

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.METHOD,
    cli.SEED,
    cli.option("--shard", metavar="i/n", help="do the i-th of n slices and journal it; see docs/evaluation.md"),
    cli.STOP_AFTER,
)
def main(given: Namespace) -> None:
    time_is_over = cli.in_time(given)
    from pipeline.core.errors import Interrupted
    from pipeline.core.progress import announce
    from pipeline.experiments.evaluate import evaluate_experiment
    from pipeline.provenance.folders import working_folder

    experiment = cli.params_of(given).experiment(given.method, given.seed)
    announce(experiment.identifier, experiment.evaluation.passes(experiment.data.facts.test_images or 1))
    with cli.stop_at_once() as stopped:

        def check() -> None:
            stopped()
            if reason := time_is_over():
                raise Interrupted(f"{reason}: what is finished is journaled; the same command continues from there")

        metrics = evaluate_experiment(experiment, given.shard, check)
    if given.shard:
        print(f"shard {given.shard} of {experiment.identifier} is journaled below {working_folder(experiment)}")
        return
    print(f"evaluated {experiment.identifier}: " + ", ".join(f"{key} {value:.2%}" for key, value in metrics.items()))


if __name__ == "__main__":
    raise SystemExit(main())
