"""Make the corrupted test images of the suite ready: check the released files, or write our own.

Our own are marked 'regenerated' wherever their numbers appear. A killed run goes on with the file it was at.
"""

from __future__ import annotations

import os
from argparse import Namespace

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option(
        "--processes", type=cli.positive, default=os.cpu_count() or 1, help="default: %(default)s, one per core"
    ),
    cli.option("--if-used", action="store_true", help="make nothing where 'ood.methods' names no method"),
    cli.option("--download", action="store_true", help="fetch the released corruptions (2.9 GB) if missing"),
)
def main(given: Namespace) -> None:
    from pipeline.experiments.ood import prepare_corrupted
    from pipeline.provenance.folders import corrupted_folder

    params = cli.params_of(given)
    if given.if_used and not params.ood.methods:
        corrupted_folder(params.data.name).mkdir(parents=True, exist_ok=True)
        print("no method is measured on corrupted images: 'ood.methods' of params.yaml names none")
        return
    for kind, provenance in prepare_corrupted(params, given.processes, given.download).items():
        print(f"{kind} of {params.data.name}: {provenance} ({corrupted_folder(params.data.name)})")


if __name__ == "__main__":
    raise SystemExit(main())
