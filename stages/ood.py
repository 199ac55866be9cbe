"""Accuracy of the trained weights of one experiment under corruptions and along perturbation sequences.

Results go to results/ and to MLflow.
"""

from __future__ import annotations

import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = cli.experiment_parser(__doc__).parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.ood import measure_ood

        experiment = load_params(given.params).experiment(given.method, given.seed)
        metrics = measure_ood(experiment)
        print(f"measured {experiment.identifier}: " + ", ".join(f"{key} {value:.2%}" for key, value in metrics.items()))

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
