"""Export a trained model: weights, a card, RobustBench's metadata; and register it in MLflow.

    python -m stages.export generalist_t-1
    python -m stages.export table1:generalist_t:aa_linf

Everything is taken from MLflow: run folders and results need not be there.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option(
        "run",
        help="an experiment (method-seed; method for the only seed), a table cell (table:method:metric), or a run id",
    ),
    cli.option("--output", type=Path, help="folder (default: exports/<suite>/<experiment>)"),
)
def main(given: Namespace) -> None:
    from pipeline.experiments.export import export, find_run
    from pipeline.tracking import read_run

    run_id = find_run(cli.params_of(given), given.run)
    tags = read_run(run_id).tags
    output = given.output or Path("exports") / tags["suite"] / f"{tags['method']}-{tags['seed']}"
    paths, registered = export(run_id, output)
    cli.tell_written(paths)
    print(f"registered {registered.uri} (models:/{registered.name}@{registered.alias}) and loaded it back")


if __name__ == "__main__":
    raise SystemExit(main())
