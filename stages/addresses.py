"""Write the address of every stage and experiment, its settings and the code that it reaches: results/addresses.json.

The first stage of `dvc repro`. The others depend on their address, so that a stage runs exactly when its settings or
the code that it reaches have changed, whatever else has. With --show, print what an experiment's stage reaches instead:

    python -m stages.addresses --show train at --seed 1
"""

from __future__ import annotations

import sys
from pathlib import Path

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/addresses.json"), help="default: %(default)s")
    parser.add_argument("--show", nargs=2, metavar=("STAGE", "METHOD"), help="list what train, evaluate or ood reaches")
    parser.add_argument("--seed", type=cli.positive, help="with --show; default: the first of params.yaml")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.provenance.addresses import write_addresses

        if given.show:
            _show(given.params, given.show[0], given.show[1], given.seed)
        elif write_addresses(given.params, given.output):
            print(f"wrote {given.output}")
            _remark(given.params)

    return cli.run(stage)


def _remark(params_file: Path) -> None:
    """Say once, before `dvc repro` trains anything, what is allowed in the file and yet often a mistake."""
    from pipeline.config import load_params
    from pipeline.config.remarks import early_end

    if remark := early_end(load_params(params_file)):
        print(f"{params_file}: {remark}", flush=True)


def _show(params_file: Path, stage: str, method: str, seed: int | None) -> None:
    from pipeline.config import load_params
    from pipeline.core.errors import RequestError, did_you_mean
    from pipeline.provenance.addresses import EXPERIMENTS
    from pipeline.provenance.code import code_of

    if stage not in EXPERIMENTS:
        raise RequestError(f"unknown stage '{stage}': {did_you_mean(stage, list(EXPERIMENTS))}")
    params = load_params(params_file)
    code = code_of(stage, params.experiment(method, params.seeds[0] if seed is None else seed))
    for name, digest in sorted(code.objects.items()):
        print(f"{digest}  {name}")
    print("\n".join(f"{version:16}  {name}" for name, version in sorted(code.libraries.items())))
    print(f"{code.digest}  {stage} of {method}: {len(code.objects)} objects in {len(code.modules)} modules")


if __name__ == "__main__":
    sys.exit(main())
