"""Write the report of the suite in params.yaml: one HTML file with everything in it, which opens offline.

Numbers, curves, verdicts and weights come from MLflow, test images from the prepared data. The first report crafts
adversarial examples anew and keeps them below runs/, so that the next one takes seconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.parser(__doc__)
    parser.add_argument("--output", type=Path, help="default: report.html in reports_folder of params.yaml")
    parser.add_argument("--examples", type=_count, default=6, help="images for each experiment (default: %(default)s)")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.core.files import remove_half_written
        from pipeline.provenance.folders import RUNS, prepared_folder
        from pipeline.reporting.examples import Pictures
        from pipeline.reporting.page.report import write_report

        params = load_params(given.params)
        cli.deliver_what_waits()
        pictures = Pictures(prepared_folder(params.data.name), RUNS, lambda text: print(text, flush=True))
        path = given.output or params.reports / "report.html"
        remove_half_written(path.parent)
        write_report(params, params.reports / "figures", pictures, given.examples, path)
        print(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB)")

    return cli.run(stage)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a number of images from 0, got '{text}'")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
