"""Evaluate the trained weights of one experiment; a killed evaluation goes on where it was.

Verdicts per image and attack go to results/ and to MLflow.
"""

from __future__ import annotations

import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = cli.experiment_parser(__doc__).parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.runs import evaluate_experiment

        experiment = load_params(given.params).experiment(given.method, given.seed)
        metrics = evaluate_experiment(experiment)
        print(
            f"evaluated {experiment.identifier}: " + ", ".join(f"{key} {value:.2%}" for key, value in metrics.items())
        )

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
