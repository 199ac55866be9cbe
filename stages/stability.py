"""Compare runs of the grid whose training sets differ in one example: empirical stability, beside its bound.

    python -m stages.stability              # every study of params.yaml that varies replaced_example
    python -m stages.stability stability    # some

Weights come from MLflow, images from the prepared data; numbers go to reports/ and to the runs in MLflow.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option("study", nargs="*", help="a key of 'ablation.studies' in params.yaml (default: all that fit)"),
    cli.option("--output", type=Path, help="default: the folder of the suite below reports/"),
)
def main(given: Namespace) -> None:
    from pipeline.experiments.stability import measure_stability

    params = cli.params_of(given)
    cli.deliver_what_waits()
    output = given.output or params.reports
    cli.tell_written(measure_stability(params, given.study, output, lambda text: print(text, flush=True)))


if __name__ == "__main__":
    raise SystemExit(main())
