"""Draw the figures of params.yaml from MLflow: PDF, PNG and SVG.

    python -m stages.figures                     # all
    python -m stages.figures trade_off framework # some

What is not measured yet is marked as missing; a figure that would show nothing is left out, and named.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option("figure", nargs="*", help="a key of 'figures' in params.yaml (default: all)"),
    cli.option("--output", type=Path, help="default: figures/ in reports_folder of params.yaml"),
)
def main(given: Namespace) -> None:
    from pipeline.core.files import remove_half_written
    from pipeline.provenance.folders import RUNS, prepared_folder
    from pipeline.reporting.drawing import write_figures
    from pipeline.reporting.examples import Pictures

    params = cli.params_of(given)
    output = given.output or params.reports / "figures"
    cli.deliver_what_waits()
    remove_half_written(output)
    pictures = Pictures(prepared_folder(params.data.name), RUNS, lambda text: print(text, flush=True))

    def skip(name: str, why: str) -> None:
        print(f"{name}: left out, {why}", flush=True)

    names = given.figure or list(params.figures)
    cli.tell_written(write_figures(params, names, output, pictures, skip))


if __name__ == "__main__":
    raise SystemExit(main())
