"""Write params.yaml for a suite, from the pieces in conf/.

    python -m stages.compose suite=cifar10 architecture=wrn32_10 protocol=reference_code

Arguments are Hydra overrides. Groups: suite, architecture, protocol; any single value can be
overridden too: `seeds=[1,2,3]`, `training.epochs=20`. With other epochs, whatever counts epochs
(breakpoints, t', c, decays, ranges of the search) is scaled in proportion, but for what is
overridden itself. Images of one's own are looked at, and what they are is written there.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from stages import cli


@cli.command(
    cli.option("overrides", nargs="*", help="for example suite=cifar10"),
    cli.option("--output", type=Path, default=Path("params.yaml"), help="default: %(default)s"),
    cli.option(
        "--overwrite", action="store_true", help="replace a file that was edited by hand, and keep it with .bak added"
    ),
)
def main(given: Namespace) -> None:
    from pipeline.config.composing import compose_suite, with_header, write_composed
    from pipeline.experiments.own_data import fit

    composition = compose_suite(given.overrides, Path("conf"), fit)
    text = with_header(given.overrides, composition.content)
    if kept := write_composed(given.output, text, given.overwrite):
        print(f"kept your edited {given.output} as {kept}")
    for line in composition.notes:
        print(line)
    params = composition.params
    count = len(params.methods) * len(params.seeds)
    print(f"wrote {given.output} for {' '.join(given.overrides) or 'the default suite'}")
    print(
        f"next: make repro, which is {count} experiments of {params.training.epochs} epochs each; "
        "'make plan' measures what they take here"
    )


if __name__ == "__main__":
    raise SystemExit(main())
