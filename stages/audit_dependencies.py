"""Look up known vulnerabilities of every package in constraints.txt, with pip-audit and PyPI's own records.

Exit code 1 where there is one, and where any package could not be looked up: without records there is no answer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=cli.EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pins", type=Path, default=Path("constraints.txt"), help="default: %(default)s")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.errors import PipelineError
        from pipeline.vulnerabilities import audit

        audited, found = audit(given.pins)
        for line in found:
            print(line)
        if found:
            raise PipelineError(
                f"{len(found)} known vulnerabilities in {audited} packages; raise the pins of {given.pins}"
            )
        print(f"{audited} packages, no known vulnerability")

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
