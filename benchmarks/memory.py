"""Peaks of memory, of a training and of an evaluation on corruptions, each in a process of its own."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.frame import benchmark
from benchmarks.loops import generalist, minibatch
from pipeline.core.devices import choose_backend
from pipeline.data.corruptions.facts import CORRUPTIONS, SEVERITIES
from pipeline.data.corruptions.folders import ImageFolder, array_file
from pipeline.data.images import ImageSet
from pipeline.evaluation.corruption_scores import corruption_accuracies
from pipeline.models import build_model

LINF, NATURAL = {"name": "adversarial", "norm": "linf"}, {"name": "natural"}
STEPS = 3
TEST_IMAGES = 10_000


def peak_of(work: Callable[..., None], *arguments: Any) -> float:
    """Mebibytes that a new process needs at most for `work`: a peak never falls again."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_after, (work, arguments))


def _peak_after(work: Callable[..., None], arguments: tuple[Any, ...]) -> float:
    work(*arguments)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@benchmark(architecture="small_cnn", images=600, batch_size=8, learners=[2])
def memory(
    architecture: str = "resnet18", images: int = 60_000, batch_size: int = 128, learners: Sequence[int] = (2, 3, 5, 8)
) -> dict[str, Any]:
    """Memory of a training on a data set of CIFAR-10's size: Generalist-D (NT + linf).

    The images are random; only their number and type matter here. And peaks of a process that trains nothing but so
    many linf learners with their mixture, by their number.
    """
    peaks = {str(count): peak_of(_train_learners, architecture, count, batch_size) for count in learners}
    backend = choose_backend("auto", "auto")
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8)
    data = ImageSet(pixels, torch.randint(10, (images,))).to(backend.device)
    loop = generalist(architecture, "cifar10", {"linf": LINF, "natural": NATURAL}, backend)
    for start in range(0, STEPS * batch_size, batch_size):
        loop.step(*data.batch(torch.arange(start, start + batch_size, device=backend.device)))
    on_gpu = backend.device.type == "cuda"
    return {
        "data_megabytes": (data.images.nbytes + data.labels.nbytes) / 1e6,
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_mebibytes_by_learners": peaks,
        **({"peak_device_mebibytes": torch.cuda.max_memory_allocated() / 2**20} if on_gpu else {}),
    }


def _train_learners(architecture: str, count: int, batch_size: int) -> None:
    """A step of so many learners."""
    backend = choose_backend("auto", "auto")
    loop = generalist(architecture, "cifar10", {f"linf_{number}": LINF for number in range(count)}, backend)
    loop.step(*minibatch("cifar10", batch_size, backend.device))


@benchmark(on_device=False, corruptions=[1], images=2)
def ood_memory(corruptions: Sequence[int] = (1, 5, 19), images: int = 256) -> dict[str, Any]:
    """Peak memory of an evaluation of ResNet-18 on files of CIFAR-10-C's size, by number of corruptions.

    The files are sparse and hold zeros; only their shape and type matter here.
    """
    peaks = {count: peak_of(_evaluate_corruptions, count, images) for count in corruptions}
    return {"peak_mebibytes": peaks}


def _evaluate_corruptions(count: int, images: int) -> None:
    names, labels = CORRUPTIONS[:count], np.zeros(TEST_IMAGES, dtype=np.int64)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in names:
            shape = (len(SEVERITIES) * TEST_IMAGES, 32, 32, 3)
            np.lib.format.open_memmap(array_file(folder, name), "w+", np.uint8, shape)
        model = build_model("resnet18", "cifar10").to(memory_format=torch.channels_last)
        source = ImageFolder(folder, "corruptions", "regenerated", names, labels)
        corruption_accuracies(model, source, torch.device("cpu"), images=images, report=lambda text: None)
