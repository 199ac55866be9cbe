"""Accuracy of the trained weights of one experiment under corruptions and along perturbation sequences.

Results go to results/ and to MLflow.
"""

from __future__ import annotations

import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.experiment_parser(__doc__)
    parser.add_argument("--grid", action="store_true", help="of the weights that the ablation grid has trained")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.experiments.ood import measure_ood

        declared = load_params(given.params).experiment(given.method, given.seed)
        experiment = declared.model_copy(update={"grid": given.grid})
        metrics = measure_ood(experiment)
        print(f"measured {experiment.identifier}: " + ", ".join(f"{key} {value:.2%}" for key, value in metrics.items()))

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
