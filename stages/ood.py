"""Accuracy of the trained weights of one experiment under corruptions and along perturbation sequences.

Results go to results/ and to MLflow.
"""

from __future__ import annotations

from argparse import Namespace

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.METHOD,
    cli.SEED,
    cli.option("--grid", action="store_true", help="of the weights that the ablation grid has trained"),
)
def main(given: Namespace) -> None:
    from pipeline.experiments.ood import measure_ood

    declared = cli.params_of(given).experiment(given.method, given.seed)
    experiment = declared.model_copy(update={"grid": given.grid})
    metrics = measure_ood(experiment)
    print(f"measured {experiment.identifier}: " + ", ".join(f"{key} {value:.2%}" for key, value in metrics.items()))


if __name__ == "__main__":
    raise SystemExit(main())
