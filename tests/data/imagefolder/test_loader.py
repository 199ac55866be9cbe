"""Batches: the same bits with any number of processes and ranks, from any step on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.datasets import ImageFolder

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.ranks import Ranks
from pipeline.core.streams import stream
from pipeline.data.imagefolder.crops import FAST_AT, STANDARD, CentreCrop, RandomCrop
from pipeline.data.imagefolder.loader import (
    Batch,
    StoredImages,
    Workers,
    evaluation_batches,
    load_images,
    open_images,
    open_subset,
    training_batches,
)
from pipeline.data.imagefolder.tree import list_tree
from tests.conftest import PATIENCE
from tests.data.imagefolder.conftest import Harm, Prepared, prepare

CROP = RandomCrop(size=32)
WORKERS = [Workers(0), Workers(1), Workers(2, ahead=1)]


@pytest.fixture(scope="module")
def train(prepared: Prepared) -> StoredImages:
    return open_images(prepared.folder, "train")


Training = Callable[..., list[Batch]]


@pytest.fixture(scope="module")
def training(train: StoredImages) -> Training:
    """27 images in batches of 8: three whole ones and one of three."""

    def batches(epoch: int, first: int = 0, **options: Any) -> list[Batch]:
        given = {"images": train, "crop": CROP, "batch_size": 8, "seed": 5, **options}
        return list(training_batches(epoch=epoch, first=first, **given))

    return batches


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def test_an_epoch_has_every_image_once(training: Training) -> None:
    batches = training(1)
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 3]
    for images, labels in batches:
        assert images.shape[1:] == (3, 32, 32) and images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.bincount(torch.cat([labels for _, labels in batches])).tolist() == [9, 9, 9]


def test_a_batch_is_the_addressed_crops_of_the_addressed_images(training: Training, train: StoredImages) -> None:
    order = torch.randperm(27, generator=stream(5, "order", 3)).tolist()
    images, labels = training(3)[1]
    for place, index in enumerate(order[8:16]):
        expected = CROP.apply(train.image(index), stream(5, "crop", 3, index))
        assert np.array_equal(images[place].permute(1, 2, 0).numpy(), expected)
        assert labels[place] == train.labels[index]


@pytest.mark.parametrize("workers", WORKERS[1:], ids=str)
def test_the_number_of_processes_changes_no_bit(training: Training, workers: Workers) -> None:
    for epoch in (1, 2):
        assert_same(training(epoch, workers=workers), training(epoch))


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_ranks_together_see_the_batch_of_one_process(training: Training, ranks: int) -> None:
    workers = WORKERS[1] if ranks == 2 else WORKERS[0]
    parts = [training(1, ranks=Ranks(rank, ranks), workers=workers) for rank in range(ranks)]
    joined = [tuple(torch.cat(tensors) for tensors in zip(*step, strict=True)) for step in zip(*parts, strict=True)]
    assert_same([(images, labels) for images, labels in joined], training(1))
    sizes = [[len(labels) for _, labels in part] for part in parts]
    assert all(max(column) - min(column) <= 1 for column in zip(*sizes, strict=True))


@pytest.mark.parametrize("workers", WORKERS[:2], ids=str)
def test_an_epoch_continues_at_any_step(training: Training, workers: Workers) -> None:
    whole = training(2)
    for first in range(5):
        assert_same(training(2, first, workers=workers), whole[first:])


def test_seed_and_epoch_decide(training: Training) -> None:
    first = training(1)[0][0]
    for other in (training(2), training(1, seed=6)):
        assert not torch.equal(first, other[0][0])


def test_an_images_crop_does_not_depend_on_what_else_is_selected(training: Training, train: StoredImages) -> None:
    chosen = torch.tensor([20, 3, 11])
    ((images, labels),) = training(1, images=train.subset(chosen), batch_size=3)
    order = torch.randperm(3, generator=stream(5, "order", 1))
    whole = {image.numpy().tobytes() for batch, _ in training(1) for image in batch}
    assert all(image.numpy().tobytes() in whole for image in images)
    assert torch.equal(labels, train.labels[chosen[order]])


@pytest.mark.parametrize("workers", WORKERS[:2], ids=str)
def test_other_random_streams_are_left_alone(training: Training, workers: Workers) -> None:
    before = torch.get_rng_state()
    training(1, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_any_resolution(training: Training) -> None:
    for size in (17, 128, 288):
        images, _ = training(1, crop=RandomCrop(size))[0]
        assert images.shape == (8, 3, size, size)


@pytest.mark.parametrize("crop", [STANDARD, FAST_AT, CentreCrop(40, 48)])
@pytest.mark.parametrize("workers", WORKERS[:2], ids=str)
def test_evaluation_sees_what_torchvision_makes_of_the_source(
    prepared: Prepared, crop: CentreCrop, workers: Workers
) -> None:
    steps = [transforms.Resize(crop.resize)] if crop.resize else []
    transform = transforms.Compose([*steps, transforms.CenterCrop(crop.size), transforms.PILToTensor()])
    reference = [*ImageFolder(str(prepared.source / "val"), transform)]
    batches = list(evaluation_batches(open_images(prepared.folder, "val"), crop, 4, workers))
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 3]
    assert torch.equal(torch.cat([images for images, _ in batches]), torch.stack([image for image, _ in reference]))
    assert torch.cat([labels for _, labels in batches]).tolist() == [label for _, label in reference]


def test_the_evaluated_images_are_the_listed_ones_in_their_order(
    prepared: Prepared, own_copy: Path, tmp_path: Path
) -> None:
    names = [file.name for file in list_tree(prepared.source).files["val"]]
    (tmp_path / "ids.txt").write_text("\n".join(names[position] for position in (9, 0, 12)))
    prepare(prepared.source, own_copy, subset_list=tmp_path / "ids.txt")
    chosen, crop = open_subset(own_copy), CentreCrop(40, 48)
    assert chosen.numbers.tolist() == [9, 0, 12] and chosen.labels.tolist() == [1, 0, 2]
    loaded = load_images(chosen, crop)
    everything = load_images(open_images(own_copy, "val"), crop, Workers(1))
    assert torch.equal(loaded.images, everything.images[[9, 0, 12]]) and loaded.labels.tolist() == [1, 0, 2]


def test_training_sees_the_odd_images_in_colour(prepared: Prepared, train: StoredImages) -> None:
    for index in range(3):
        with Image.open(prepared.source / "train" / list_tree(prepared.source).files["train"][index].name) as source:
            reference = transforms.functional.resize(source.convert("RGB"), 48)
        error = np.asarray(train.image(index), dtype=float) - np.asarray(reference)
        assert np.sqrt((error**2).mean()) < 6


def shorten(folder: Path) -> None:
    path = folder / "train-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (shutil.rmtree, "manifest.json: is missing, preparing was not begun or has not ended"),
        (
            lambda folder: (folder / "train-00001.safetensors").unlink(),
            "train-00001.safetensors: is missing. 'python -m",
        ),
        (shorten, "train-00001.safetensors: is damaged: .* bytes, the manifest says"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_at_the_start(own_copy: Path, harm: Harm, text: str) -> None:
    harm(own_copy)
    with pytest.raises(RequestError, match=text):
        open_images(own_copy, "train")


def test_a_list_that_was_edited_is_refused(own_copy: Path) -> None:
    path = own_copy / "subset.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(RequestError, match=r"subset\.txt: is not the list in the manifest\. 'python -m"):
        open_subset(own_copy)


@pytest.mark.parametrize("workers", WORKERS[:2], ids=str)
def test_a_shard_that_is_damaged_later_is_named_without_a_traceback(own_copy: Path, workers: Workers) -> None:
    images = open_images(own_copy, "train")
    path = own_copy / "train-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-3000] + bytes(3000))
    with pytest.raises(
        RequestError, match=r"^\S*train-00002.safetensors: image 1\d is damaged \(.*'python -m"
    ) as caught:
        list(training_batches(images, CROP, 8, 0, 1, workers=workers))
    assert "Traceback" not in str(caught.value)
    assert active_children() == [], "although the error is kept"


class Deadly(RandomCrop):
    """Stands in for a system that is out of memory."""

    def apply(self, image: Image.Image, generator: torch.Generator) -> NDArray[np.uint8]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("not reached")


def test_a_process_that_is_killed_is_an_error_with_a_way_out(train: StoredImages) -> None:
    with pytest.raises(PipelineError, match="was killed, often for want of memory; use fewer than 2 workers"):
        list(training_batches(train, Deadly(), 8, 0, 1, workers=Workers(2)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_the_whole_family_leaves_the_trainer_its_batches(
    training: Training, train: StoredImages, number: signal.Signals
) -> None:
    """As a batch system, a terminal or the end of a grid sends it; 'kill' is not the workers' parent."""
    others = psutil.Process().children()
    batches = training_batches(train, CROP, 8, 5, 1, workers=Workers(1, ahead=1))
    first = next(batches)
    (worker,) = (child for child in psutil.Process().children() if child not in others)
    subprocess.run(["kill", f"-{number.value}", str(worker.pid)], check=True)
    assert_same([first, *batches], training(1))
    psutil.wait_procs([worker], timeout=PATIENCE)
    assert not worker.is_running(), "it ends with the epoch"


UNFINISHED = """
import os, pathlib, signal, sys
import psutil
from pipeline.data.imagefolder.crops import RandomCrop
from pipeline.data.imagefolder.loader import Workers, open_images, training_batches
images = open_images(pathlib.Path(sys.argv[1]), "train")
batches = training_batches(images, RandomCrop(32), 8, 0, 1, workers=Workers(1))
next(batches)
print(psutil.Process().children()[0].pid, flush=True)
"""
"""A trainer in the middle of an epoch."""


@pytest.mark.parametrize("end", ["sys.exit()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_trainer_that_ends_in_an_epoch_leaves_nobody(prepared: Prepared, end: str) -> None:
    command = [sys.executable, "-c", UNFINISHED + end, str(prepared.folder)]
    trainer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    worker, deadline = int(trainer.stdout), time.monotonic() + PATIENCE
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it has outlived its trainer"
        time.sleep(0.1)


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_flat(train: StoredImages) -> None:
    passed, before = 0, 0
    for epoch in range(1, 17):
        for images, _ in training_batches(train, RandomCrop(224), 8, 5, epoch):
            passed += images.nbytes
        if epoch == 4:
            passed, before = 0, resident()
    assert passed > 40e6 and resident() - before < 10e6


def test_labels_and_pixels_belong_together(prepared: Prepared, train: StoredImages) -> None:
    files = list_tree(prepared.source).files["train"]
    assert train.labels.tolist() == [file.label for file in files]
    for index in (5, 13, 26):
        with Image.open(prepared.source / "train" / files[index].name) as source:
            reference: Tensor = transforms.functional.pil_to_tensor(transforms.functional.resize(source, 48))
        stored = transforms.functional.pil_to_tensor(train.image(index))
        assert stored.shape == reference.shape
        assert (stored.float() - reference.float()).square().mean().sqrt() < 6
