"""Reduce an ImageFolder tree (train/<class>/*.JPEG, val/<class>/*.JPEG) once, and store it as shards to stream from.

The same command continues what was stopped. ImageNet itself has to be obtained by hand; its validation images must be
sorted into one folder per class.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from pipeline.core.machine import usable_cores
from pipeline.core.signals import stop_on_signal
from stages import cli


def _size(text: str) -> int | None:
    return None if text == "original" else cli.positive(text)


@cli.command(
    cli.option("source", type=Path, help="folder with train/ and val/"),
    cli.option("destination", type=Path, help="folder for the shards: new, empty, or one to continue in"),
    cli.option(
        "--size",
        type=_size,
        default=256,
        help="shorter side of training images in pixels, or 'original' to keep them as they are; default: %(default)s",
    ),
    cli.option(
        "--workers",
        type=cli.positive,
        default=usable_cores(),
        help="processes; default: as many as there are cores, %(default)s",
    ),
    cli.option("--allow-damaged", action="store_true", help="leave damaged images out, instead of failing"),
    cli.option(
        "--upright",
        action="store_true",
        help="turn images as their EXIF orientation says, which data.name=imagefolder does and imagenet does not",
    ),
    cli.option(
        "--subset-list",
        type=Path,
        metavar="FILE",
        help="validation images to evaluate on, one path below val/ a line; default: 5,000 in a fixed random order",
    ),
    cli.option("--images-per-shard", type=cli.positive, default=2048, help="default: %(default)s"),
)
def main(given: Namespace) -> None:
    """The command."""
    from pipeline.core.progress import PreparationDisplay
    from pipeline.data.imagefolder.prepare import ShardSettings, describe, prepare_imagefolder

    with stop_on_signal() as should_stop, PreparationDisplay(f"preparing {given.source}") as display:
        manifest = prepare_imagefolder(
            given.source,
            given.destination,
            ShardSettings(given.size, given.images_per_shard, given.upright),
            display,
            workers=given.workers,
            subset_list=given.subset_list,
            allow_damaged=given.allow_damaged,
            should_stop=should_stop,
        )
    print(describe(manifest, given.destination))


if __name__ == "__main__":
    raise SystemExit(main())
