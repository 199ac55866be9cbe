"""Write the tables of params.yaml from MLflow: LaTeX fragments, CSV, Markdown, and pictures and one PDF
where pdflatex exists.

Cells without a finished run show a dash, and a footnote says which command fills them.
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
    cli.option("--output", type=Path, help="default: tables/ in reports_folder of params.yaml"),
)
def main(given: Namespace) -> None:
    from pipeline.core.files import remove_half_written
    from pipeline.reporting.results import awaits_corrupted_images, collect
    from pipeline.reporting.tables import of_suite, remove_leftovers, write_pictures, write_table

    params = cli.params_of(given)
    output = given.output or params.reports / "tables"
    cli.deliver_what_waits()
    _log_restored(params)
    remove_half_written(output)
    written: list[Path] = []
    for name, results in collect(params).items():
        if awaits_corrupted_images(results):
            print(f"{name}: left out, no method is measured on corrupted images (ood.methods of params.yaml)")
            continue
        for note in sorted({note for notes in results["notes"] for note in notes if "differ" in note}):
            print(f"{name}: {note}")
        written += cli.tell_written(write_table(of_suite(name, params, results), output))
    for line in write_pictures([path for path in written if path.suffix == ".tex"], output):
        print(line)
    for path in remove_leftovers(output, written):
        print(f"removed {path}, of a table that is not written any more")


def _log_restored(params: Params) -> None:
    """Log to MLflow what DVC restored."""
    from pipeline.experiments.ood import check_ood_results
    from pipeline.experiments.results import check_results
    from pipeline.grid.settings import unfinished
    from pipeline.provenance.folders import ood_folder, results_folder
    from pipeline.tracking import ensure_logged, ensure_ood_logged

    for experiment in unfinished(params.experiments()):
        check_results(experiment)
    for experiment in params.experiments():
        if ensure_logged(experiment, results_folder(experiment)):
            print(f"logged {experiment.identifier} to MLflow from its files")
        check_ood_results(experiment)
        if ensure_ood_logged(experiment, ood_folder(experiment)):
            print(f"logged {experiment.identifier} on corrupted images to MLflow from its files")


if __name__ == "__main__":
    raise SystemExit(main())
