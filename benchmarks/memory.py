"""Memory of a training on a data set of CIFAR-10's size: Generalist-D (NT + linf), in a process of its own.

The images are random; only their number and type matter here. And peaks of a process that trains nothing but so many
linf learners with their mixture, by their number.
"""

from __future__ import annotations

import resource
import sys
from multiprocessing import get_context

import torch

from benchmarks.loops import generalist, minibatch
from benchmarks.publishing import publish
from benchmarks.step import our_loop
from benchmarks.timing import Option, read_arguments
from pipeline.core.devices import choose_backend
from pipeline.data.images import ImageSet

MEBIBYTE = 2**20
OPTIONS = {
    "architecture": Option("resnet18", "small_cnn", "one for images of CIFAR-10's shape"),
    "images": Option(60_000, 600, "of the data set"),
    "batch_size": Option(128, 8, "images of a step"),
    "learners": Option([2, 3, 5, 8], [2], "how many, each number in a process of its own"),
}
STEPS = 3


def peak_of_learners(architecture: str, count: int, batch_size: int) -> float:
    """MiB of this process after a step of so many learners."""
    backend = choose_backend("auto", "auto")
    objectives = {f"linf_{number}": {"name": "adversarial", "norm": "linf"} for number in range(count)}
    generalist(architecture, "cifar10", objectives, backend).step(*minibatch("cifar10", batch_size, backend.device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "memory", OPTIONS, arguments)
    peaks = {}
    for count in given.learners:
        with get_context("spawn").Pool(1) as pool:
            peaks[str(count)] = pool.apply(peak_of_learners, (given.architecture, count, given.batch_size))
    backend = choose_backend("auto", "auto")
    images = torch.randint(256, (given.images, 3, 32, 32), dtype=torch.uint8)
    data = ImageSet(images, torch.randint(10, (given.images,))).to(backend.device)
    loop = our_loop(given.architecture, backend)
    for start in range(0, STEPS * given.batch_size, given.batch_size):
        loop.step(*data.batch(torch.arange(start, start + given.batch_size, device=backend.device)))
    result = {
        "data_megabytes": (data.images.nbytes + data.labels.nbytes) / 1e6,
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "architecture": given.architecture,
        "batch_size": given.batch_size,
        "peak_mebibytes_by_learners": peaks,
    }
    if backend.device.type == "cuda":
        result["peak_device_mebibytes"] = torch.cuda.max_memory_allocated() / MEBIBYTE
    publish(given.output, result, backend.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
