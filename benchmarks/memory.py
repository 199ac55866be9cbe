"""Memory of a training on a data set of CIFAR-10's size: ResNet-18, batch 128, in a process of its own.

The images are random; only their number and type matter here.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from benchmarks.publishing import publish
from benchmarks.step import BATCH, OurLoop
from pipeline.data.images import ImageSet

MEBIBYTE = 2**20


def main() -> int:
    """The command."""
    images = torch.randint(256, (60_000, 3, 32, 32), dtype=torch.uint8)
    data = ImageSet(images, torch.randint(10, (60_000,)))
    step = OurLoop("resnet18")
    for start in range(0, 3 * BATCH, BATCH):
        step(*data.batch(torch.arange(start, start + BATCH)))
    result = {
        "data_megabytes": (data.images.nbytes + data.labels.nbytes) / 1e6,
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "device": str(step.backend.device),
    }
    if step.backend.device.type == "cuda":
        result["peak_device_mebibytes"] = torch.cuda.max_memory_allocated() / MEBIBYTE
    publish(Path("benchmarks/results/memory.json"), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
