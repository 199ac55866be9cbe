"""Download or find the images of params.yaml's data set, check them, and store them: as uint8 tensors, or as shards of
encoded images where they are too large for memory. Storing shards continues what was stopped.
"""

from __future__ import annotations

from argparse import Namespace

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option(
        "--accept",
        action="store_true",
        help="images of one's own: first write what lies at data.root now to params.yaml (data.found)",
    ),
)
def main(given: Namespace) -> None:
    from pipeline.core.signals import stop_on_signal
    from pipeline.experiments.own_data import accept
    from pipeline.experiments.prepare import prepare_data

    if given.accept:
        print("\n".join(accept(given.params)), flush=True)
    data = cli.params_of(given).data
    if data.streaming is None:
        prepare_data(data, lambda: None)
        return
    with stop_on_signal() as should_stop:
        prepare_data(data, should_stop)


if __name__ == "__main__":
    raise SystemExit(main())
