"""Compare runs of the grid whose training sets differ in one example: empirical stability, beside its bound.

    python -m stages.stability              # every study of params.yaml that varies replaced_example
    python -m stages.stability stability    # some

Weights come from MLflow, images from the prepared data; numbers go to reports/ and to the runs in MLflow.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.parser(__doc__)
    parser.add_argument("study", nargs="*", help="a key of 'ablation.studies' in params.yaml (default: all that fit)")
    parser.add_argument("--output", type=Path, help="default: the folder of the suite below reports/")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.experiments.stability import measure_stability, report_folder

        params = load_params(given.params)
        cli.deliver_what_waits()
        output = given.output or report_folder(params)
        for path in measure_stability(params, given.study, output, lambda text: print(text, flush=True)):
            print(f"wrote {path}")

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
