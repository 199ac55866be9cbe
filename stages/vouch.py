"""Say that the code's changes since some results were made move none of their numbers.

Those results then count as this code's: nothing is trained or measured anew, and interrupted trainings are continued.
Kept on the runs in MLflow, with who said so, when and why:

    python -m stages.vouch generalist_t --seed 1 --reason "renamed a function"

First prints what has changed, and asks; --yes answers.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from stages import cli

if TYPE_CHECKING:
    from pipeline.config import Experiment


@cli.command(
    cli.PARAMS,
    cli.option("method", nargs="?", help="a key of 'methods' in params.yaml; default: every one"),
    cli.option("--seed", type=int, help="one of 'seeds'; default: every one"),
    cli.option("--reason", required=True, help="why no number moves, for those who read the results"),
    cli.option("--grid", action="store_true", help="every experiment of the ablation grid instead"),
    cli.option("--yes", action="store_true", help="do not ask"),
)
def main(given: Namespace) -> None:
    from pipeline.core.errors import RequestError
    from pipeline.experiments.vouching import differences, record

    found = [one for experiment in _experiments(given) if (one := differences(experiment)).stages]
    if not found:
        print("nothing to vouch for: what is there was made by this code, or nothing is there")
        return
    for one in found:
        print(one.text)
    if not given.yes and not _agreed(len(found)):
        raise RequestError("nothing was recorded; --yes records it without a question")
    for one in found:
        record(one, given.reason)
        print(f"vouched for {one.experiment.identifier}")


def _experiments(given: Namespace) -> list[Experiment]:
    from pipeline.studies.cells import cells

    params = cli.params_of(given)
    if given.grid:
        return list({cell.experiment.fingerprint: cell.experiment for cell in cells(params)}.values())
    methods = [given.method] if given.method else list(params.methods)
    seeds = params.seeds if given.seed is None else [given.seed]
    return [params.experiment(method, seed) for method in methods for seed in seeds]


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(f"experiments: {count}. Does none of this move a number? [y/N] ").strip().lower() in ("y", "yes")


if __name__ == "__main__":
    raise SystemExit(main())
