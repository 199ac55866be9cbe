"""Say where the number in a table cell comes from, from MLflow alone.

    python -m stages.explain table1:generalist_t:aa_linf

Prints the experiment, its fingerprints, the run, commit, data and weights digests, the attack's settings, verdict
counts, and the command that makes the number again, or measures it where it is missing.
"""

from __future__ import annotations

from argparse import Namespace

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option("cell", help="table:method:metric, names as in params.yaml"),
)
def main(given: Namespace) -> None:
    from pipeline.reporting.explain import explain

    print(explain(cli.params_of(given), given.cell))


if __name__ == "__main__":
    raise SystemExit(main())
