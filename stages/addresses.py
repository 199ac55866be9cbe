"""Write the address of every stage and experiment, its settings and the code that it reaches: results/addresses.json.

The first stage of `dvc repro`. The others depend on their address, so that a stage runs exactly when its settings or
the code that it reaches have changed, whatever else has. With --show, print what an experiment's stage reaches instead:

    python -m stages.addresses --show train at --seed 1
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from stages import cli

if TYPE_CHECKING:
    from pipeline.config import Params


@cli.command(
    cli.PARAMS,
    cli.option("--output", type=Path, default=Path("results/addresses.json"), help="default: %(default)s"),
    cli.option("--show", nargs=2, metavar=("STAGE", "METHOD"), help="list what train, evaluate or ood reaches"),
    cli.option("--seed", type=cli.positive, help="with --show; default: the first of params.yaml"),
)
def main(given: Namespace) -> None:
    from pipeline.provenance.addresses import write_addresses
    from pipeline.provenance.own_images import are_touched

    if given.show:
        _show(given)
        return
    if are_touched(given.params):
        from pipeline.experiments.prepare import prepare_data

        print("images at data.root were touched since they were prepared, they are read again", flush=True)
        prepare_data(cli.params_of(given).data, lambda: None)  # refuses other ones than params.yaml says
    if write_addresses(given.params, given.output, _check_figures):
        print(f"wrote {given.output}")
        from pipeline.config.remarks import early_end  # takes seconds, which a run without changes is spared

        if remark := early_end(cli.params_of(given)):  # once, before `dvc repro` trains anything
            print(f"{given.params}: {remark}", flush=True)


def _check_figures(params: Params) -> None:
    """Before `dvc repro` trains anything."""
    from pipeline.reporting.drawing import check_figures

    check_figures(params)


def _show(given: Namespace) -> None:
    from pipeline.provenance.addresses import EXPERIMENTS
    from pipeline.provenance.code import code_of

    stage, method = given.show
    cli.check_known("stage", [stage], EXPERIMENTS)
    params = cli.params_of(given)
    code = code_of(stage, params.experiment(method, params.seeds[0] if given.seed is None else given.seed))
    for name, digest in sorted(code.objects.items()):
        print(f"{digest}  {name}")
    print("\n".join(f"{version:16}  {name}" for name, version in sorted(code.libraries.items())))
    print(f"{code.digest}  {stage} of {method}: {len(code.objects)} objects in {len(code.modules)} modules")


if __name__ == "__main__":
    raise SystemExit(main())
