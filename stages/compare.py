"""Compare two methods on the same test images: McNemar's exact test on the verdicts of one attack.

python -m stages.compare at generalist_t --attack aa_linf
"""

from __future__ import annotations

import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.parser(__doc__)
    parser.add_argument("first", help="a key of 'methods' in params.yaml")
    parser.add_argument("second", help="another one")
    cli.add_seed(parser)
    parser.add_argument("--attack", action="append", help="a name from evaluation.attacks, or natural (default: all)")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.core.errors import RequestError, did_you_mean
        from pipeline.evaluation.statistics import mcnemar
        from pipeline.experiments.results import load_verdicts

        params = load_params(given.params)
        tables = [load_verdicts(params.experiment(name, given.seed)) for name in (given.first, given.second)]
        known = ["natural", *params.evaluation.attacks]
        for attack in given.attack or known:
            if attack not in known:
                raise RequestError(f"unknown attack '{attack}': {did_you_mean(attack, known)}")
            first, second = (table[table["attack"] == attack].set_index("image")["correct"] for table in tables)
            found = mcnemar(first, second)
            print(
                f"{attack}: {given.first} {first.mean():.2%}, {given.second} {second.mean():.2%} of {found.images} "
                f"images; only {given.first} right: {found.only_first}, only {given.second}: {found.only_second}; "
                f"p = {found.p_value:.3g}"
            )

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
