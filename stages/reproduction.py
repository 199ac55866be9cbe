"""Say what the suite's runs tell of the papers, from MLflow alone: their numbers, their claims, the authors' switches.

Writes to `reports_folder`: verdicts of every image (Parquet), curves by epoch (CSV), resolved experiments (YAML), and
what follows from them: rows.csv, settings.csv, claims.csv. 'make publish' takes them into docs/.
"""

from __future__ import annotations

from argparse import Namespace

from stages import cli


@cli.command(cli.PARAMS)
def main(given: Namespace) -> None:
    from pipeline.core.files import write_text
    from pipeline.reporting.reproduction import find, gather, write_record

    params = cli.params_of(given)
    cli.deliver_what_waits()
    record = gather(params)
    cli.tell_written(write_record(record, params.reports))
    for name, text in find(record).files().items():
        write_text(params.reports / name, text)
        cli.tell_written([params.reports / name])


if __name__ == "__main__":
    raise SystemExit(main())
