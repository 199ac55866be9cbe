"""Write the report of the suite in params.yaml: one HTML file with everything in it, which opens offline.

Numbers, curves, verdicts and weights come from MLflow, test images from the prepared data. The first report crafts
adversarial examples anew and keeps them below runs/, so that the next one takes seconds.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option("--output", type=Path, help="default: report.html in reports_folder of params.yaml"),
    cli.option("--examples", type=cli.whole(0), default=6, help="images for each experiment (default: %(default)s)"),
)
def main(given: Namespace) -> None:
    from pipeline.core.files import remove_half_written
    from pipeline.provenance.folders import RUNS, prepared_folder
    from pipeline.reporting.examples import Pictures
    from pipeline.reporting.page.report import write_report

    params = cli.params_of(given)
    cli.deliver_what_waits()
    pictures = Pictures(prepared_folder(params.data.name), RUNS, lambda text: print(text, flush=True))
    path = given.output or params.reports / "report.html"
    remove_half_written(path.parent)
    write_report(params, params.reports / "figures", pictures, given.examples, path)
    print(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    raise SystemExit(main())
