"""Write params.yaml for a suite, from the pieces in conf/.

    python -m stages.compose suite=cifar10 architecture=wrn32_10 protocol=reference_code

Arguments are Hydra overrides. Groups: suite, architecture, protocol; any single value can be
overridden too: `seeds=[1,2,3]`, `training.epochs=20`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.config import parse_params
from pipeline.errors import RequestError
from pipeline.files import write_text
from stages import cli

HEADER = "# Composed from conf/ by: python -m stages.compose {overrides}\n# This file is what runs; edit it freely.\n"


def compose(overrides: list[str], conf: Path) -> str:
    """The content of params.yaml for Hydra `overrides`.

    Raises:
        RequestError: an override names something that does not exist, or the composed file has mistakes.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        with initialize_config_dir(str(conf.resolve()), version_base=None):
            composed = hydra_compose("config", overrides)
        OmegaConf.resolve(composed)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError, OSError) as error:
        raise RequestError(f"cannot compose {' '.join(overrides)}: {error}") from None
    text = OmegaConf.to_yaml(composed)
    parse_params(OmegaConf.to_container(composed), f"conf/ with {' '.join(overrides) or 'no overrides'}")
    return HEADER.format(overrides=" ".join(overrides)) + text


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="for example suite=cifar10")
    parser.add_argument("--output", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    given = parser.parse_args(arguments)

    def stage() -> None:
        write_text(given.output, compose(given.overrides, Path("conf")))
        print(f"wrote {given.output} for {' '.join(given.overrides) or 'the default suite'}; next: make repro")

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
