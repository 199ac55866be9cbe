"""Peak memory of an evaluation of ResNet-18 on files of CIFAR-10-C's size, by number of corruptions.

Each number in a process of its own. The files are sparse and hold zeros; only their shape and type matter here.
"""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.publishing import publish
from benchmarks.timing import Option, read_arguments
from pipeline.data.corruptions.facts import CORRUPTIONS, SEVERITIES
from pipeline.data.corruptions.folders import ImageFolder, array_file
from pipeline.evaluation.corruption_scores import corruption_accuracies
from pipeline.models import build_model

TEST_IMAGES = 10_000
OPTIONS = {
    "corruptions": Option([1, 5, len(CORRUPTIONS)], [1], "how many"),
    "images": Option(256, 2, "of every severity"),
}


def peak(folder: Path, corruptions: int, images: int) -> float:
    """Mebibytes that this process has needed at most, after such an evaluation."""
    names, labels = CORRUPTIONS[:corruptions], np.zeros(TEST_IMAGES, dtype=np.int64)
    for name in names:
        shape = (len(SEVERITIES) * TEST_IMAGES, 32, 32, 3)
        np.lib.format.open_memmap(array_file(folder, name), "w+", np.uint8, shape)
    model = build_model("resnet18", "cifar10").to(memory_format=torch.channels_last)
    source = ImageFolder(folder, "corruptions", "regenerated", names, labels)
    corruption_accuracies(model, source, torch.device("cpu"), images=images, report=lambda text: None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "ood_memory", OPTIONS, arguments)
    peaks = {}
    for count in given.corruptions:
        # A new process for each: a peak never falls again.
        with TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as process:
            peaks[count] = process.submit(peak, Path(folder), count, given.images).result()
        print(f"{count} corruptions: {peaks[count]:.0f} MiB at most", file=sys.stderr, flush=True)
    publish(given.output, {"images_of_every_severity": given.images, "peak_mebibytes": peaks})
    return 0


if __name__ == "__main__":
    sys.exit(main())
