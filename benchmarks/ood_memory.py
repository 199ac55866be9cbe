"""Peak memory of an evaluation of ResNet-18 on files of CIFAR-10-C's size, by number of corruptions.

Each number in a process of its own. The files are sparse and hold zeros; only their shape and type matter here.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.publishing import publish
from pipeline.data.corruptions.facts import CORRUPTIONS, SEVERITIES
from pipeline.data.corruptions.folders import ImageFolder, array_file
from pipeline.evaluation.ood import corruption_verdicts
from pipeline.models import build_model

TEST_IMAGES = 10_000


def peak(folder: Path, corruptions: int, images: int) -> float:
    """Mebibytes that this process has needed at most, after such an evaluation."""
    names, labels = CORRUPTIONS[:corruptions], np.zeros(TEST_IMAGES, dtype=np.int64)
    for name in names:
        shape = (len(SEVERITIES) * TEST_IMAGES, 32, 32, 3)
        np.lib.format.open_memmap(array_file(folder, name), "w+", np.uint8, shape)
    model = build_model("resnet18", "cifar10").to(memory_format=torch.channels_last)
    source = ImageFolder(folder, "corruptions", "regenerated", names, labels)
    corruption_verdicts(model, source, torch.device("cpu"), images=images, report=lambda text: None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corruptions", type=int, nargs="+", default=[1, 5, len(CORRUPTIONS)])
    parser.add_argument("--images", type=int, default=512, help="of every severity; default: %(default)s")
    given = parser.parse_args()
    if len(given.corruptions) == 1:
        with tempfile.TemporaryDirectory() as folder:
            print(peak(Path(folder), given.corruptions[0], given.images))
        return 0
    peaks = {}
    for count in given.corruptions:
        command = [sys.executable, "-m", "benchmarks.ood_memory", "--images", str(given.images), "--corruptions"]
        child = subprocess.run([*command, str(count)], stdout=subprocess.PIPE, text=True, check=True)
        peaks[count] = float(child.stdout)
        print(f"{count} corruptions: {peaks[count]:.0f} MiB at most", flush=True)
    numbers = {"images_of_every_severity": given.images, "peak_mebibytes": peaks}
    publish(Path("benchmarks/results/ood_memory.json"), numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
