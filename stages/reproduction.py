"""Say what the suite's runs tell of the papers, from MLflow alone: their numbers, their claims, the authors' switches.

Writes to `reports_folder`: verdicts of every image (Parquet), curves by epoch (CSV), resolved experiments (YAML), and
what follows from them: rows.csv, settings.csv, claims.csv. 'make publish' takes them into docs/.
"""

from __future__ import annotations

import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = cli.parser(__doc__).parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.core.files import write_text
        from pipeline.reporting.reproduction import find, gather, write_record

        params = load_params(given.params)
        cli.deliver_what_waits()
        record = gather(params)
        for path in write_record(record, params.reports):
            print(f"wrote {path}")
        for name, text in find(record).files().items():
            write_text(params.reports / name, text)
            print(f"wrote {params.reports / name}")

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
