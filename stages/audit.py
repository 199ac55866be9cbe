"""List where the papers' tables contradict themselves or each other, computed from their numbers alone.

Writes reports/published/audit.md and audit.csv.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from stages import cli


@cli.command(cli.option("--output", type=Path, default=Path("reports/published"), help="folder (default: %(default)s)"))
def main(given: Namespace) -> None:
    from pipeline.core.files import write_text
    from pipeline.reporting.audit import audit, describe

    found = audit()
    print(describe(found))
    for name, content in (("audit.md", describe(found)), ("audit.csv", found.to_csv(index=False))):
        write_text(given.output / name, content)
        print(f"wrote {given.output / name}")


if __name__ == "__main__":
    raise SystemExit(main())
