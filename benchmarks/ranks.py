"""One process of a job that `benchmarks.scaling` starts under torchrun: Generalist-D (linf + l2) on made-up images.

Training is stopped after some steps; the first process writes the median seconds of a step, the first one left out, to
`seconds.json` in the folder.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.loops import suite
from pipeline.core.devices import choose_backend
from pipeline.core.errors import Interrupted
from pipeline.core.files import write_json
from pipeline.data.images import ImageSet, ImageSplit
from pipeline.training.distributed import joined
from pipeline.training.loop import train
from pipeline.training.observer import Silent

METHOD = "generalist_d_linf_l2"
LEARNER_PARALLEL, DATA_PARALLEL = "learner parallel", "data parallel"
TIMED_STEPS = 3


class Watch(Silent):
    """Remembers how fast the steps were."""

    def __init__(self) -> None:
        self.images_per_second: list[float] = []

    def on_step(self, epoch: int, step: int, losses: Mapping[str, float], images_per_second: float) -> None:
        """A step has ended."""
        self.images_per_second.append(images_per_second)

    def is_done(self) -> str | None:
        """Why to stop, when there is a reason."""
        return "measured" if len(self.images_per_second) > TIMED_STEPS else None


def main() -> int:
    """The command."""
    architecture, batch_size, kind, folder = sys.argv[1:]
    measure(architecture, int(batch_size), kind == LEARNER_PARALLEL, Path(folder))
    return 0


def measure(architecture: str, batch_size: int, learner_parallel: bool, folder: Path) -> None:
    """Train for a few steps."""
    overrides = ("suite=cifar10", f"architecture={architecture}", "competitors=none")
    experiment = suite(*overrides, f"training.batch_size={batch_size}").experiment(METHOD, 1)
    backend = choose_backend("auto", "auto", threads=1)
    count = (TIMED_STEPS + 2) * batch_size
    noise = torch.Generator().manual_seed(0)
    images = ImageSet(
        torch.randint(256, (count, 3, 32, 32), generator=noise, dtype=torch.uint8), torch.arange(count) % 10
    )
    split = ImageSplit(images, images, images, digest="")
    watch = Watch()
    with joined(backend.device) as ranks:
        with suppress(Interrupted):
            train(experiment, split, backend, folder, watch, watch.is_done, ranks, learner_parallel)
        if ranks.is_first:
            rate = statistics.median(watch.images_per_second[1:])
            write_json(folder / "seconds.json", batch_size / rate)


if __name__ == "__main__":
    sys.exit(main())
