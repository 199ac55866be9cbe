"""List where the papers' tables contradict themselves or each other, computed from their numbers alone.

Writes reports/published/audit.md and audit.csv.
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
    parser.add_argument("--output", type=Path, default=Path("reports/published"), help="folder (default: %(default)s)")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.core.files import write_text
        from pipeline.reporting.audit import audit, describe

        found = audit()
        print(describe(found))
        for name, content in (("audit.md", describe(found)), ("audit.csv", found.to_csv(index=False))):
            write_text(given.output / name, content)
            print(f"wrote {given.output / name}")

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
