"""Download or find the images of params.yaml's data set, check them, and store them: as uint8 tensors, or as shards of
encoded images where they are too large for memory. Storing shards continues what was stopped.
"""

from __future__ import annotations

import sys

from stages import cli


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = cli.parser(__doc__).parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.core.signals import stop_on_signal
        from pipeline.experiments.prepare import prepare_data

        data = load_params(given.params).data
        if data.streaming is None:
            prepare_data(data, lambda: None)
            return
        with stop_on_signal() as should_stop:
            prepare_data(data, should_stop)

    return cli.run(stage)


if __name__ == "__main__":
    sys.exit(main())
