"""Deliver to MLflow what outages and kills have left on the disk, of every experiment in this folder.

    MLFLOW_TRACKING_URI=http://host:5000 python -m stages.deliver

Records are delivered in order and exactly once; those of an experiment that is being trained, too.
"""

from __future__ import annotations

from argparse import Namespace

from stages import cli


@cli.command(cli.PARAMS)
def main(given: Namespace) -> None:
    from pipeline.core.errors import PipelineError
    from pipeline.tracking import deliver_left

    left = deliver_left()
    if left.waiting:
        raise PipelineError(left.describe())
    print(left.describe() or "nothing waits for MLflow")


if __name__ == "__main__":
    raise SystemExit(main())
