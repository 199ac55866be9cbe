"""Compare two methods on the same test images: McNemar's exact test on the verdicts of one attack.

python -m stages.compare at generalist_t --attack aa_linf
"""

from __future__ import annotations

from argparse import Namespace

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option("first", help="a key of 'methods' in params.yaml"),
    cli.option("second", help="another one"),
    cli.SEED,
    cli.option("--attack", action="append", help="a name from evaluation.attacks, or natural (default: all)"),
)
def main(given: Namespace) -> None:
    """The command."""
    from pipeline.evaluation.statistics import mcnemar
    from pipeline.experiments.results import load_verdicts

    params = cli.params_of(given)
    tables = [load_verdicts(params.experiment(name, given.seed)) for name in (given.first, given.second)]
    known = ["natural", *params.evaluation.attacks]
    cli.check_known("attack", given.attack or [], known)
    for attack in given.attack or known:
        first, second = (table[table["attack"] == attack].set_index("image")["correct"] for table in tables)
        found = mcnemar(first, second)
        print(
            f"{attack}: {given.first} {first.mean():.2%}, {given.second} {second.mean():.2%} of {found.images} "
            f"images; only {given.first} right: {found.only_first}, only {given.second}: {found.only_second}; "
            f"p = {found.p_value:.3g}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
