"""Compare two evaluated models on the same test images: settings that differ, accuracies with McNemar's exact test,
trainings over each other, and the images that only one gets right.

    python -m stages.compare at generalist_t --seed 1
    python -m stages.compare at-1 at-2 --attack aa_linf
    python -m stages.compare at-1 results/external/downloaded

Each is a method, an experiment (method-seed), a cell of the ablation grid, or a folder: results/<suite>/<experiment> of
another suite, results/external/<weights> of weights from elsewhere.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from stages import cli

if TYPE_CHECKING:
    from pipeline.experiments.compare import Comparison


@cli.command(
    cli.PARAMS,
    cli.option("first", help="a method, an experiment such as at-1, a cell of the grid, or a folder of results"),
    cli.option("second", help="another one"),
    cli.SEED,
    cli.option("--attack", action="append", help="a name from evaluation.attacks, or natural (default: all)"),
    cli.option("--output", type=Path, help="folder of the pictures (default: comparisons/ beside the suite's tables)"),
)
def main(given: Namespace) -> None:
    from pipeline.core.errors import RequestError
    from pipeline.experiments.compare import compare, named

    params = cli.params_of(given)
    sides = [named(params, name, given.seed) for name in (given.first, given.second)]
    found = compare(sides[0], sides[1], given.attack)
    _tell(found)
    names = [side.name.replace("/", "_") for side in (found.first, found.second)]
    output = given.output or params.reports / "comparisons" / "--".join(names)
    try:
        _draw(found, given.attack or ["natural", *params.evaluation.union], output)
    except RequestError as error:
        print(f"no picture of images: {error}")


def _tell(found: Comparison) -> None:
    first, second = found.first.name, found.second.name
    for attack, row in found.accuracies.iterrows():
        print(
            f"{attack}: {first} {row[first]:.2%}, {second} {row[second]:.2%} of {row['images']:.0f} "
            f"images; only {first} right: {row[f'only {first}']:.0f}, only {second}: {row[f'only {second}']:.0f}; "
            f"p = {row['p']:.3g}"
        )
    for attack, reason in found.left_out.items():
        print(f"{attack}: not compared, {reason}")
    print(f"settings that differ, {first} and {second}:" if len(found.settings) else "no setting differs")
    for setting, row in found.settings.iterrows():
        print(f"  {setting}: {row[first] or '--'} | {row[second] or '--'}")


def _draw(found: Comparison, attacks: list[str], output: Path) -> None:
    from pipeline.reporting.style import save, style

    with style():
        curves = found.curves()
        cli.tell_written(save(curves, output, "curves") if curves else ())
        for attack in [name for name in attacks if name in found.accuracies.index]:
            cli.tell_written(save(found.images(attack), output, f"images_{attack}"))


if __name__ == "__main__":
    raise SystemExit(main())
