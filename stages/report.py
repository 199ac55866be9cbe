"""Write the tables of params.yaml from MLflow: LaTeX fragments, CSV, Markdown, and pictures and one PDF
where pdflatex exists.

Cells without a finished run show a dash, and a footnote says which command fills them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.parser(__doc__)
    parser.add_argument("--output", type=Path, help="default: tables_folder of params.yaml")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import OOD_METRICS, load_params
        from pipeline.reporting.results import collect
        from pipeline.reporting.tables import compile_pdf, draw_pictures, write_table
        from pipeline.runs import results_folder
        from pipeline.tracking import ensure_logged

        params = load_params(given.params)
        output = given.output or Path(params.tables_folder)
        for experiment in params.experiments():
            if ensure_logged(experiment, results_folder(experiment)):
                print(f"logged {experiment.identifier} to MLflow from its files")
        for name, results in collect(params).items():
            table = params.tables[name]
            measured = results[~results["missing"]]["metric"].isin(OOD_METRICS)
            if any(column.metric in OOD_METRICS for column in table.columns) and not measured.any():
                print(f"{name}: nothing is measured on corrupted images yet; 'make ood' does")
                continue
            for note in sorted({note for notes in results["notes"] for note in notes if "differ" in note}):
                print(f"{name}: {note}")
            for path in write_table(name, params, results, output):
                print(f"wrote {path}")
        for path in draw_pictures(output):
            print(f"wrote {path}")
        pdf = compile_pdf(output)
        print(
            f"wrote {pdf}" if pdf else "pdflatex is not installed: the tables were not compiled ('make setup' says how)"
        )

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
