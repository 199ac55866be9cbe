"""Attacking test images: PGD-20 by batch size, and AutoAttack against its authors' package."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.frame import Option, benchmark, rates, ratios, timed
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

ATTACK = "pgd20_linf"
WORTH_IT = 1.05
"""How much faster twice the batch must be."""

Seconds = dict[int, list[float]]
Verdicts = dict[str, list[bool]]


@benchmark(
    suites=Option(["digits", "cifar10"], ["digits"], "whose network, images and attack"),
    first=Option(16, 4, "images of the smallest batch"),
    most=Option(1024, 8, "images of the largest batch"),
    rounds=Option(3, 1, "timings of each"),
)
def evaluation(given: Namespace) -> dict[str, Any]:
    """PGD-20 on test images: images per second by batch size, and from which batch size on larger ones gain nothing.

    The batch is doubled until that makes it less than 5 % faster. The batch size that is suggested for
    `evaluation.batch_size` is a suggestion: it belongs to the address of an evaluation, so that another one means to
    attack again.
    """
    suites = {name: suite(f"suite={name}", "competitors=none") for name in given.suites}
    found = {name: _probe_suite(params, given.first, given.most, given.rounds) for name, params in suites.items()}
    return {"suites": found, "rounds": given.rounds}


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
        "attack": ATTACK,
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


@benchmark(
    images=Option(64, 2, "attacked"),
    train_images=Option(1300, 96, "of the digits, trained on before"),
    rounds=Option(3, 1, "attacks by each"),
)
def autoattack(given: Namespace) -> dict[str, Any]:
    """Our AutoAttack against its authors' package called directly: the same verdicts, and how long each takes.

    A small network is trained on digits; then both attack the same images with the same seed and batch size, in turn in
    one process.
    """
    params = suite("suite=digits", "competitors=none", f"data.train_images={given.train_images}")
    experiment, split = params.experiment("at", params.seeds[0]), images_of(params.data)
    backend = choose_backend("auto", "float32")
    with TemporaryDirectory() as folder:
        model = train(experiment, split, backend, Path(folder), Silent()).model.to(backend.device).eval()
    images = split.test.subset(torch.arange(given.images)).to(backend.device)
    attack = AutoAttack(name="autoattack", norm="linf", epsilon=params.threat_model["linf"].epsilon)
    settings = params.evaluation.model_copy(update={"batch_size": given.images, "attacks": {"aa": attack}})
    verdicts: Verdicts = {}
    works = {
        "ours": partial(_ours, model, images, settings, verdicts),
        "theirs": partial(_theirs, model, images, attack.epsilon, verdicts),
    }
    seconds = timed(works, backend.device, given.rounds, warm_up=False)
    if verdicts["ours"] != verdicts["theirs"]:
        raise PipelineError("the verdicts differ from those of the package")
    compared = ratios(seconds["ours"], seconds["theirs"])
    return {
        "ratio_median": compared["median"],
        "ratio_least": compared["least"],
        "ratio_most": compared["most"],
        "seconds": seconds,
        "rounds": given.rounds,
        "images": given.images,
        "robust_images": sum(verdicts["ours"]),
    }


def _ours(model: nn.Module, images: ImageSet, settings: EvaluationSettings, verdicts: Verdicts) -> None:
    """Attack with the project's evaluation, journal included."""
    with TemporaryDirectory() as folder:
        found = Evaluation(model, images, settings, Journal(Path(folder)), mock.Mock()).run()
    verdicts["ours"] = found.loc[found["attack"] == "aa", "correct"].tolist()


def _theirs(model: nn.Module, images: ImageSet, epsilon: float, verdicts: Verdicts) -> None:
    """Attack with the package."""
    import pyautoattack

    inputs, labels = images.batch(torch.arange(len(images)))
    seed = stream_seed(0, "autoattack", 0)
    attack = pyautoattack.AutoAttack(
        model, norm="Linf", eps=epsilon, seed=seed, version="standard", device=str(inputs.device)
    )
    adversarial, _ = attack.run_standard_evaluation(inputs, labels, batch_size=len(images))
    with torch.no_grad():
        verdicts["theirs"] = (model(adversarial).argmax(1) == labels).tolist()
