"""Deliver to MLflow what outages and kills have left on the disk, of every experiment in this folder.

    MLFLOW_TRACKING_URI=http://host:5000 python -m stages.deliver

Records are delivered in order and exactly once; those of an experiment that is being trained, too.
"""

from __future__ import annotations

import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    cli.parser(__doc__).parse_args(arguments)

    def stage() -> None:
        from pipeline.core.errors import PipelineError
        from pipeline.tracking import deliver_left

        left = deliver_left()
        if left.waiting:
            raise PipelineError(left.describe())
        print(left.describe() or "nothing waits for MLflow")

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
