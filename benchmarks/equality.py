"""Whether what makes training fast changes what it learns: the same experiments in other arithmetic, by seed.

Generalist-D (NT + linf) with the small network on the digits, and on real CIFAR-10 (its official files in data/raw, or
downloaded), shortened: in float32 as it comes, in bfloat16, and through torch.compile. Each is judged on test images,
natural and under PGD-20, in float32. The seeds' own spread says what a difference means.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from benchmarks.publishing import publish
from benchmarks.timing import Option, read_arguments
from pipeline.attacks.pgd import PGD
from pipeline.config import Experiment, parse_params
from pipeline.config.composing import compose
from pipeline.core.devices import Backend, choose_backend
from pipeline.data.images import ImageSplit
from pipeline.data.prepare import prepare
from pipeline.data.split import open_split
from pipeline.evaluation.predictions import predictions
from pipeline.training.loop import train
from pipeline.training.observer import Silent

METHOD = "generalist_d_nt_linf"
OPTIONS = {
    "suites": Option(["digits"], ["digits"], "of which to train: digits, cifar10_study"),
    "seeds": Option(5, 2, "of every suite"),
    "variants": Option(["float32", "bfloat16", "compiled"], ["float32", "bfloat16"], "float32 and what it is beside"),
}
Precision = Literal["float32", "bfloat16"]
VARIANTS: dict[str, tuple[Precision, bool]] = {
    "float32": ("float32", False),
    "bfloat16": ("bfloat16", False),
    "compiled": ("float32", True),
}
"""Arithmetic, and whether through torch.compile."""


@dataclass(frozen=True)
class Sizes:
    """How much of a suite is trained and judged."""

    epochs: int
    train_images: int
    test_images: int


FULL = {"digits": Sizes(15, 1300, 360), "cifar10_study": Sizes(4, 2000, 300)}
QUICK = Sizes(2, 96, 48)


@dataclass(frozen=True)
class Judged:
    """What one training has reached on test images."""

    natural: float
    pgd20: float


def experiment_of(suite: str, seed: int, sizes: Sizes) -> Experiment:
    """The method of a suite, shortened."""
    epochs = sizes.epochs
    raw = yaml.safe_load(compose([f"suite={suite}", "architecture=small_cnn"], Path(__file__).parent.parent / "conf"))
    raw["seeds"], raw["tables"], raw["methods"] = [seed], {}, {METHOD: raw["methods"][METHOD]}
    raw["training"].update(epochs=epochs, validation_interval=epochs)
    raw["training"]["selection"]["split"] = "last"
    raw["data"].update(train_images=sizes.train_images, test_images=sizes.test_images)
    schedule = {"epochs": [0, epochs], "values": [1, 0.1]}
    for learner in raw["methods"][METHOD]["learners"].values():
        learner["schedule"] = schedule
    mixture = raw["methods"][METHOD]["mixture"]
    ratios = {name: [values[0], values[-1]] for name, values in mixture["mixing_ratios"].items()}
    mixture.update(breakpoints=[0, epochs], mixing_ratios=ratios, warmup_epochs=epochs // 2, communication_interval=1)
    return parse_params(raw).experiment(METHOD, seed)


def judge(experiment: Experiment, split: ImageSplit, backend: Backend) -> Judged:
    """Train an experiment and look at what it has learnt."""
    with tempfile.TemporaryDirectory() as folder:
        model = train(experiment, split, backend, Path(folder), Silent()).model
    test, exact = split.test.to(backend.device), Backend(backend.device, bfloat16=False)
    budget = experiment.threat_model["linf"]
    attack = PGD(norm="linf", epsilon=budget.epsilon, step_size=budget.epsilon / 4, steps=20)
    accuracies = []
    for tried in (None, attack):
        predicted = predictions(model, test, tried, experiment.seed, exact, experiment.evaluation.batch_size)
        accuracies.append((predicted == test.labels.cpu()).double().mean().item())
    return Judged(*accuracies)


def compare(found: Mapping[str, list[Judged]]) -> dict[str, Any]:
    """For every variant and metric: its mean, the seeds' deviation, and the mean difference to float32."""
    result: dict[str, Any] = {}
    for metric in ("natural", "pgd20"):
        reached = {name: np.array([getattr(one, metric) for one in judged]) for name, judged in found.items()}
        result[metric] = {
            name: {
                "mean": values.mean(),
                "seed_deviation": values.std(ddof=1),
                "difference": (values - reached["float32"]).mean(),
            }
            for name, values in reached.items()
        }
    return result


def measure(suite: str, seeds: int, variants: list[str], sizes: Sizes) -> dict[str, Any]:
    """Every variant with every seed."""
    found: dict[str, list[Judged]] = {name: [] for name in variants}
    experiments = [experiment_of(suite, seed, sizes) for seed in range(1, seeds + 1)]
    with tempfile.TemporaryDirectory() as folder:
        prepare(experiments[0].data, Path(folder))
        split = open_split(Path(folder), experiments[0].data, experiments[0].stored_sizes)
        assert isinstance(split, ImageSplit)
        for experiment in experiments:
            for name in variants:
                precision, compiled = VARIANTS[name]
                found[name].append(judge(experiment, split, choose_backend("auto", precision, compiled=compiled)))
                print(f"{suite}, seed {experiment.seed}, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    return {
        "architecture": experiments[0].architecture,
        "seeds": seeds,
        **asdict(sizes),
        "variants": compare(found),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "equality", OPTIONS, arguments)
    suites = {
        suite: measure(suite, given.seeds, given.variants, QUICK if given.quick else FULL[suite])
        for suite in given.suites
    }
    publish(given.output, {"suites": suites}, choose_backend("auto", "float32").device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
