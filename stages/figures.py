"""Draw the figures of params.yaml from MLflow: vector PDF and PNG.

    python -m stages.figures                     # all
    python -m stages.figures trade_off framework # some

What is not measured yet is marked as missing. Without names, figures of studies that have not been run are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.parser(__doc__)
    parser.add_argument("figure", nargs="*", help="a key of 'figures' in params.yaml (default: all)")
    parser.add_argument("--output", type=Path, help="default: figures/ in reports_folder of params.yaml")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.core.files import remove_half_written
        from pipeline.provenance.folders import RUNS, prepared_folder
        from pipeline.reporting.examples import Pictures
        from pipeline.reporting.figures import write_figures

        params = load_params(given.params)
        output = given.output or params.reports / "figures"
        cli.deliver_what_waits()
        remove_half_written(output)
        pictures = Pictures(prepared_folder(params.data.name), RUNS, lambda text: print(text, flush=True))

        def skip(name: str, coverage: list[int]) -> None:
            measured, wanted = coverage
            way_out = "make search" if params.figures[name].kind == "pareto" else "make ablation"
            print(f"{name}: left out, {measured} of {wanted} experiments are measured; '{way_out}' runs the others")

        names = given.figure or list(params.figures)
        for path in write_figures(params, names, output, pictures, None if given.figure else skip):
            print(f"wrote {path}", flush=True)

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
