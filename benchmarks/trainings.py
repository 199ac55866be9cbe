"""Whole trainings: what fast arithmetic changes, what shared warm-ups save, what measuring the theorems costs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from benchmarks.frame import benchmark, ratios, spread
from benchmarks.loops import images_of, suite
from pipeline.attacks.pgd import PGD
from pipeline.config import Experiment
from pipeline.core.devices import Backend, choose_backend
from pipeline.data.images import ImageSplit
from pipeline.evaluation.predictions import predictions
from pipeline.studies.cells import cells
from pipeline.studies.warm_ups import shared_warm_ups
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train
from pipeline.training.observer import Silent
from pipeline.training.warm_up import SharedTraining


class Sizes(NamedTuple):
    """How much of a suite is trained and judged."""

    epochs: int
    train_images: int
    test_images: int


SIZES = {"digits": Sizes(15, 1300, 360), "cifar10_study": Sizes(4, 2000, 300), "digits_beyond": Sizes(2, 96, 48)}
"""By suite; of the last one as much as a test needs."""
PRECISIONS: dict[str, Literal["float32", "bfloat16"]] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "compiled": "float32",
}


@benchmark(suites=["digits_beyond"], seeds=2, variants=["float32", "bfloat16"])
def equality(
    suites: Sequence[str] = ("digits",), seeds: int = 5, variants: Sequence[str] = tuple(PRECISIONS)
) -> dict[str, Any]:
    """Whether what makes training fast changes what it learns: the same experiments in other arithmetic, by seed.

    Generalist-D (NT + linf) with the small network on the digits, and on real CIFAR-10 (its official files in data/raw,
    or downloaded), shortened: in float32 as it comes, in bfloat16, and through torch.compile. Each is judged on test
    images, natural and under PGD-20, in float32. The seeds' own spread says what a difference means.
    """
    return {"suites": {name: _compare(name, seeds, variants, SIZES[name]) for name in suites}}


def _compare(name: str, seeds: int, variants: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    """For every metric and variant its mean, the seeds' deviation, and the mean difference to float32."""
    experiments = [shortened(name, seed, sizes) for seed in range(1, seeds + 1)]
    split = images_of(experiments[0].data)
    found: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
    for experiment in experiments:
        for variant, judged in found.items():
            backend = choose_backend("auto", PRECISIONS[variant], compiled=variant == "compiled")
            judged.append(_judge(experiment, split, backend))
            print(f"{name}, seed {experiment.seed}, {variant}: {judged[-1]}", file=sys.stderr, flush=True)
    reached = {variant: np.array(judged).T for variant, judged in found.items()}
    return {
        "architecture": experiments[0].architecture,
        "seeds": seeds,
        **sizes._asdict(),
        "variants": {
            metric: {
                variant: {
                    "mean": values[row].mean(),
                    "seed_deviation": values[row].std(ddof=1),
                    "difference": (values[row] - reached["float32"][row]).mean(),
                }
                for variant, values in reached.items()
            }
            for row, metric in enumerate(("natural", "pgd20"))
        },
    }


def shortened(name: str, seed: int, sizes: Sizes) -> Experiment:
    """Generalist-D (NT + linf) of a suite, with fewer epochs and images."""
    less = [
        f"training.epochs={sizes.epochs}",
        f"training.validation_interval={sizes.epochs}",
        "training.selection.split=last",
        f"data.train_images={sizes.train_images}",
        f"data.test_images={sizes.test_images}",
    ]
    params = suite(f"suite={name}", "architecture=small_cnn", "competitors=none", f"seeds=[{seed}]", *less)
    return params.experiment("generalist_d_nt_linf", seed)


def _judge(experiment: Experiment, split: ImageSplit, backend: Backend) -> tuple[float, float]:
    """Train an experiment; its accuracy on test images, natural and under PGD-20."""
    with TemporaryDirectory() as folder:
        model = train(experiment, split, backend, Path(folder), Silent()).model
    test, exact = split.test.to(backend.device), Backend(backend.device, bfloat16=False)
    epsilon = experiment.threat_model["linf"].epsilon
    attack = PGD(norm="linf", epsilon=epsilon, step_size=epsilon / 4, steps=20)

    def accuracy(tried: PGD | None) -> float:
        predicted = predictions(model, test, tried, experiment.seed, exact, experiment.evaluation.batch_size)
        return (predicted == test.labels.cpu()).double().mean().item()

    return accuracy(None), accuracy(attack)


@benchmark(on_device=False, grid="none", train_images=32)
def warm_ups(rounds: int = 1, grid: str = "whole", train_images: int = 325) -> dict[str, Any]:
    """What shared warm-ups save: digits, each experiment trained alone against what they share trained once.

    The experiments of `make repro` and of the grid that share a warm-up with others. One thread, no evaluation; alone
    and shared take turns, and must end with the same bits.
    """
    images = (f"data.train_images={train_images}", f"data.held_out_images={min(train_images, 137)}")
    params = suite("suite=digits", "ablation=full", *images)
    backend = choose_backend("auto", params.training.precision, params.training.threads)
    experiments = list(params.experiments())
    if grid == "whole":
        experiments += [cell.experiment for cell in cells(params, seeds=params.seeds[:1])]
    trained = Set(experiments, images_of(params.data), backend)
    return _alone_and_shared(trained, rounds)


class Set:
    """Experiments that are trained again and again."""

    def __init__(self, experiments: Sequence[Experiment], split: ImageSplit, backend: Backend) -> None:
        self.warm_ups = shared_warm_ups(experiments)
        self.experiments = [one for warm_up in self.warm_ups for one in warm_up.experiments]
        self.backend = backend
        self._split = split
        self._weights: dict[str, dict[str, torch.Tensor]] = {}

    def train(self, is_shared: bool) -> None:
        """Train all from the beginning.

        Raises:
            AssertionError: weights are not those of the last time.
        """
        with TemporaryDirectory() as folder:
            places = {one.fingerprint: Path(folder) / one.fingerprint for one in self.experiments}
            own = {key: CheckpointFolder(place / "checkpoints", key) for key, place in places.items()}
            for number, warm_up in enumerate(self.warm_ups if is_shared else []):
                kept = CheckpointFolder(Path(folder) / f"shared {number}", warm_up.fingerprint)
                SharedTraining(warm_up, self._split, self.backend, kept, own, Silent()).train()
            for one in self.experiments:
                place = places[one.fingerprint]
                weights = dict(train(one, self._split, self.backend, place, Silent()).model.state_dict())
                before = self._weights.setdefault(one.fingerprint, weights)
                same = all(torch.equal(weights[name], tensor) for name, tensor in before.items())
                assert same, f"{one.identifier} has other weights where its warm-up is shared"


def _alone_and_shared(trained: Set, rounds: int) -> dict[str, Any]:
    """Epochs of one learner, and seconds by the clock and of the processor."""
    alone = sum(len(one.method.learners) * one.training.epochs for one in trained.experiments)
    saved = sum(one.learner_epochs_saved for one in trained.warm_ups)
    seconds: dict[str, dict[str, list[float]]] = {
        clock: {"alone": [], "shared": []} for clock in ("seconds", "processor_seconds")
    }
    for _ in range(rounds):
        for name in ("shared", "alone"):
            begun = time.perf_counter(), time.process_time()
            trained.train(is_shared=name == "shared")
            seconds["seconds"][name].append(time.perf_counter() - begun[0])
            seconds["processor_seconds"][name].append(time.process_time() - begun[1])
    return {
        "experiments": len(trained.experiments),
        "learner_epochs": {"alone": alone, "shared": alone - saved},
        **{clock: {name: spread(values) for name, values in found.items()} for clock, found in seconds.items()},
        "ratio": ratios(seconds["seconds"]["alone"], seconds["seconds"]["shared"]),
        "processor_ratio": ratios(seconds["processor_seconds"]["alone"], seconds["processor_seconds"]["shared"]),
    }


class Epochs(Silent):
    """Keeps the rows of the history."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """One more row."""
        self.rows.append(record)

    def column(self, name: str) -> list[float]:
        """Its values in the epochs that have it."""
        return [row[name] for row in self.rows if name in row]


@benchmark(rounds=1, train_images=96)
def theory(rounds: int = 3, train_images: int = 1300) -> dict[str, Any]:
    """What measuring the theorems costs: the share of training time that it takes at the default interval.

    Generalist-T on the digits, with the settings of `conf/`, a seed for each round; both times are those that training
    itself records (`theory/seconds` and `seconds` of every epoch).
    """
    params = suite(
        *("suite=digits", "competitors=none", "++training.theory={}"),
        *(f"seeds={list(range(rounds))}", f"data.train_images={train_images}"),
    )
    settings, split = params.training.theory, images_of(params.data)
    assert settings is not None
    backend = choose_backend("auto", params.training.precision, params.training.threads)
    shares, moments = [], 0
    for seed in params.seeds:
        epochs = Epochs()
        with TemporaryDirectory() as folder:
            train(params.experiment("generalist_t", seed), split, backend, Path(folder), epochs)
        measured = epochs.column("theory/seconds")
        shares.append(sum(measured) / sum(epochs.column("seconds")))
        moments = len(measured)
    return {
        "interval": settings.interval,
        "images": settings.images,
        "epochs": params.training.epochs,
        "moments": moments,
        "learners": len(params.methods["generalist_t"].learners),
        "share_of_training": spread(shares),
    }
