"""Attacking test images: PGD-20 by batch size, and AutoAttack against its authors' package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.frame import benchmark, rates, ratios, timed
from benchmarks.loops import THREADS, images_of, minibatch, suite
from pipeline.config import EvaluationSettings, Params, SingleAttack
from pipeline.core.devices import choose_backend
from pipeline.core.errors import PipelineError
from pipeline.core.streams import stream_seed
from pipeline.data.images import ImageSet
from pipeline.evaluation.attacks.autoattack import AutoAttack
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.journal import Journal
from pipeline.evaluation.predictions import predictions
from pipeline.models import build_model
from pipeline.training.loop import train
from pipeline.training.observer import Silent

ATTACK, LARGER = "pgd20_linf", "resnet18_width16"
WORTH_IT = 1.05
"""How much faster twice the batch must be."""

Seconds = dict[int, list[float]]
Verdicts = dict[str, list[bool]]


@benchmark(suites=["digits"], first=4, most=8, rounds=1)
def evaluation(
    suites: Sequence[str] = ("digits", "cifar10_narrow", "cifar10"), first: int = 4, most: int = 1024, rounds: int = 3
) -> dict[str, Any]:
    """PGD-20 on test images: images per second by batch size, and from which batch size on larger ones gain nothing.

    The batch is doubled until that makes it less than 5 % faster. The batch size that is suggested for
    `evaluation.batch_size` is a suggestion: it belongs to the address of an evaluation, so that another one means to
    attack again.
    """
    found = {name: suite(f"suite={name}", "competitors=none") for name in suites}
    return {"suites": {name: _probe_suite(params, first, most, rounds) for name, params in found.items()}}


def _probe_suite(params: Params, first: int, most: int, rounds: int) -> dict[str, Any]:
    """A probe with the suite's network, which is not trained: PGD takes all its steps in any case."""
    backend = choose_backend("auto", "float32", params.training.threads or THREADS)
    model = backend.place(build_model(params.model.architecture, params.data.name, params.model.normalization))
    attack = params.evaluation.attacks[ATTACK]
    assert isinstance(attack, SingleAttack)

    def time_pair(size: int) -> Seconds:
        pixels, labels = minibatch(params.data.name, 2 * size, backend.device)
        images = ImageSet((255 * pixels).to(torch.uint8), labels)
        works = {
            count: partial(predictions, model, images, attack, 0, backend, count, batches=1)
            for count in (size, 2 * size)
        }
        return timed(works, backend.device, rounds)

    size, reason, measured = probe(time_pair, first, most)
    print(f"{params.suite}: evaluation.batch_size {size} is suggested ({reason})", file=sys.stderr, flush=True)
    return {
        "architecture": params.model.architecture,
        "threads": torch.get_num_threads(),
        "suggested_batch_size": size,
        "reason": reason,
        "configured_batch_size": params.evaluation.batch_size,
        "batch_sizes": measured,
    }


def probe(time_pair: Callable[[int], Seconds], first: int, most: int) -> tuple[int, str, dict[int, Any]]:
    """Double the batch size while that pays.

    Args:
        time_pair: Seconds of a batch of this size and of one of twice the size, in rounds that alternate.
        first: Where to begin.
        most: No batch is larger.

    Returns:
        The size that is suggested, why no larger one, and by size what was measured: images per second, and by which
        factor they are more than with half the size.
    """
    measured: dict[int, Any] = {}
    size = first
    while 2 * size <= most:
        pair = time_pair(size)
        growth = ratios([2 * seconds for seconds in pair[size]], pair[2 * size])
        measured.setdefault(size, {"images_per_second": rates(size, pair[size])})
        measured[2 * size] = {"images_per_second": rates(2 * size, pair[2 * size]), "growth": growth}
        if growth["median"] < WORTH_IT:
            return size, "twice as many are no faster", measured
        size *= 2
    return size, "larger ones were not tried", measured


@benchmark(images=2, train_images=96, larger_images=1, rounds=1, queries=20)
def autoattack(
    images: int = 64, train_images: int = 1300, larger_images: int = 8, rounds: int = 3, queries: int = 1000
) -> dict[str, Any]:
    """Our AutoAttack against its authors' package called directly: the same verdicts, and how long each takes.

    A small network is trained on digits; then both attack the same images with the same seed and batch size, in turn in
    one process. And with less effort (targeted attacks at 3 classes, so many queries of Square) a larger network that
    is not trained, on images of CIFAR-10's shape and in a radius in which no attack fools it, so that none ends early.
    With one thread.
    """
    params = suite("suite=digits", "competitors=none", f"data.train_images={train_images}")
    experiment, split = params.experiment("at", params.seeds[0]), images_of(params.data)
    backend = choose_backend("auto", "float32", threads=1)
    with TemporaryDirectory() as folder:
        model = train(experiment, split, backend, Path(folder), Silent()).model.to(backend.device).eval()
    digits = split.test.subset(torch.arange(images)).to(backend.device)
    attack = AutoAttack(name="autoattack", norm="linf", epsilon=params.threat_model["linf"].epsilon)
    found = _compare(model, digits, params.evaluation, attack, rounds)
    larger = backend.place(build_model(LARGER, "cifar10")).eval()
    pixels = (255 * minibatch("cifar10", larger_images, backend.device)[0]).to(torch.uint8)
    unlabelled = ImageSet(pixels, torch.zeros(larger_images, dtype=torch.long, device=backend.device))
    right = ImageSet(pixels, predictions(larger, unlabelled, None, 0, backend, larger_images).to(backend.device))
    attack = AutoAttack(name="autoattack", norm="linf", epsilon=1e-7, targets=3, queries=queries)
    return {**found, "larger": {"architecture": LARGER, **_compare(larger, right, params.evaluation, attack, rounds)}}


def _compare(
    model: nn.Module, images: ImageSet, settings: EvaluationSettings, attack: AutoAttack, rounds: int
) -> dict[str, Any]:
    """How long our way takes relative to the package's.

    Raises:
        PipelineError: their verdicts differ.
    """
    settings, verdicts = settings.model_copy(update={"batch_size": len(images), "attacks": {"aa": attack}}), Verdicts()
    works = {
        "ours": partial(_ours, model, images, settings, verdicts),
        "theirs": partial(_theirs, model, images, attack, verdicts),
    }
    seconds = timed(works, images.images.device, rounds, warm_up=False)
    if verdicts["ours"] != verdicts["theirs"]:
        raise PipelineError("the verdicts differ from those of the package")
    compared = {f"ratio_{name}": value for name, value in ratios(seconds["ours"], seconds["theirs"]).items()}
    return {**compared, "seconds": seconds, "robust_images": sum(verdicts["ours"])}


def _ours(model: nn.Module, images: ImageSet, settings: EvaluationSettings, verdicts: Verdicts) -> None:
    """Attack with the project's evaluation, journal included."""
    with TemporaryDirectory() as folder:
        found = Evaluation(model, images, settings, Journal(Path(folder)), mock.Mock()).run()
    verdicts["ours"] = found.loc[found["attack"] == "aa", "correct"].tolist()


def _theirs(model: nn.Module, images: ImageSet, settings: AutoAttack, verdicts: Verdicts) -> None:
    """Attack with the package."""
    import pyautoattack

    inputs, labels = images.batch(torch.arange(len(images)))
    seed = stream_seed(0, "autoattack", 0)
    attack = pyautoattack.AutoAttack(
        model, norm="Linf", eps=settings.epsilon, seed=seed, version="standard", device=str(inputs.device)
    )
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = settings.targets
    attack.square.n_queries = settings.queries
    adversarial, _ = attack.run_standard_evaluation(inputs, labels, batch_size=len(images))
    with torch.no_grad():
        verdicts["theirs"] = (model(adversarial).argmax(1) == labels).tolist()
