"""Check this machine and this checkout, and print for each finding the way out.

Versions, disk, memory, devices, data and digests, the MLflow store, a Prefect server, DVC's state, LaTeX and Chromium.
The exit code is 1 when there is a problem.
"""

from __future__ import annotations

from argparse import Namespace

from stages import cli


@cli.command(cli.PARAMS)
def main(given: Namespace) -> None:
    from pipeline.core.errors import PipelineError
    from pipeline.experiments.doctor import examine

    problems = 0
    for finding in examine(cli.params_of(given)):
        problems += finding.status == "problem"
        print(f"{finding.status:8} {finding.subject}: {finding.text}", flush=True)
        if finding.fix:
            print(f"{'':8} way out: {finding.fix}", flush=True)
    if problems:
        raise PipelineError("1 problem was found" if problems == 1 else f"{problems} problems were found")


if __name__ == "__main__":
    raise SystemExit(main())
