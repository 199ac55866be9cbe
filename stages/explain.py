"""Say where the number in a table cell comes from, from MLflow alone.

    python -m stages.explain table1:generalist_t:aa_linf

Prints the experiment, its fingerprints, the run, commit, data and weights digests, the attack's settings, verdict
counts, and the command that makes the number again, or measures it where it is missing.
"""

from __future__ import annotations

import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.parser(__doc__)
    parser.add_argument("cell", help="table:method:metric, names as in params.yaml")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.reporting.explain import explain

        print(explain(load_params(given.params), given.cell))

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
