"""Make the corrupted test images of the suite ready: check the released files, or write our own.

Our own are marked 'regenerated' wherever their numbers appear. A killed run goes on with the file it was at.
"""

from __future__ import annotations

import os
import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--processes", type=cli.positive, default=os.cpu_count() or 1, help="default: %(default)s, one per core"
    )
    parser.add_argument("--if-used", action="store_true", help="make nothing where 'ood.methods' names no method")
    parser.add_argument("--download", action="store_true", help="fetch the released corruptions (2.9 GB) if missing")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.experiments.ood import prepare_corrupted
        from pipeline.provenance.folders import corrupted_folder

        params = load_params(given.params)
        if given.if_used and not params.ood.methods:
            corrupted_folder(params.data.name).mkdir(parents=True, exist_ok=True)
            print("no method is measured on corrupted images: 'ood.methods' of params.yaml names none")
            return
        for kind, provenance in prepare_corrupted(params, given.processes, given.download).items():
            print(f"{kind} of {params.data.name}: {provenance} ({corrupted_folder(params.data.name)})")

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
