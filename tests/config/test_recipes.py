"""Recipes of the competitors' own sources: every learning rate of every epoch, written down from the sources' code.

Each function is what a source's training loop computes for a batch, in its own counting: of the epoch (from 0), the
batch (from 0) and how many batches an epoch has. Repositories and commits are those of `tests.objectives.official`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.config import Params, SGDSettings
from pipeline.config.mixture import SingleSettings
from tests.conftest import composed

IMAGES = 50_000
Rate = Callable[[int, int, int], float]


def from_epoch(first: dict[int, float]) -> Rate:
    """A rate that changes between epochs: by the first epoch (from 1) that has it."""
    return lambda epoch, batch, batches: [rate for start, rate in first.items() if epoch + 1 >= start][-1]


def cosine(epoch: int, batch: int, batches: int) -> float:
    """RST: epochs count from 1, and one is taken off."""
    number = epoch + 1
    return 0.1 * 0.5 * (1 + math.cos((number - 1) / 200 * math.pi))


def score(epoch: int, batch: int, batches: int) -> float:
    """SCORE: by the epochs that are over after the batch."""
    over = epoch + (batch + 1) / batches
    return 0.05 if over < 100 else 0.005 if over < 105 else 0.0005


def static(epoch: int, batch: int, batches: int) -> float:
    """AT max, E-AT, RAMP: by the epochs that are over after the batch, more than 70."""
    return 0.005 if epoch + (batch + 1) / batches > 70 else 0.05


def triangle(epoch: int, batch: int, batches: int) -> float:
    """Fast-AT, but one batch later: the source's scheduler steps after the batch, ours before it."""
    step, steps = epoch * batches + batch + 1, 15 * batches
    return 0.2 * (1 - abs(2 * step / steps - 1))


def by_steps(epoch: int, batch: int, batches: int) -> float:
    """AT average: by the number of the step, from 0; the last with a rate is inclusive."""
    step = epoch * batches + batch
    return 0.1 if step <= 40_000 else 0.01 if step <= 60_000 else 0.001


def ahead(epoch: int, batch: int, batches: int) -> float:
    """MSD: epochs count from 1, and the share of the epoch is added."""
    moment = epoch + 1 + (batch + 1) / batches
    return float(np.interp(moment, [0, 20, 40, 50], [0, 0.1, 0.005, 0]))


def endpoint(epoch: int, batch: int, batches: int) -> float:
    """RMC: of 150 epochs (from 1) half are constant; at nine tenths the rate is 1 %."""
    return _garipov(0.1, (epoch + 1) / 150)


def path(epoch: int, batch: int, batches: int) -> float:
    """RMC: the same over the 50 epochs of the path, which follow."""
    return _garipov(0.03, (epoch + 1 - 150) / 50)


def _garipov(rate: float, over: float) -> float:
    if over <= 0.5:
        return rate
    return rate * (1 - (over - 0.5) / 0.4 * 0.99) if over <= 0.9 else rate * 0.01


RECIPES: dict[str, tuple[int, int, float, dict[str, Rate]]] = {
    "trades_6_source": (76, 128, 2e-4, {"linf": from_epoch({1: 0.1, 75: 0.01})}),
    "fat_source": (120, 128, 2e-4, {"linf": from_epoch({1: 0.1, 60: 0.01, 90: 0.001, 110: 0.0005})}),
    "iat_source": (200, 128, 2e-4, {"linf": from_epoch({1: 0.1, 101: 0.01, 151: 0.001})}),
    "rst_source": (200, 256, 5e-4, {"linf": cosine}),
    "score_source": (110, 128, 5e-4, {"linf": score}),
    "score_pgd_source": (110, 128, 5e-4, {"linf": score}),
    "agr_source": (200, 128, 5e-4, {"linf": from_epoch({1: 0.1, 101: 0.01, 151: 0.001})}),
    # The thresholds of 60 and 90 count the epochs after the warm-up of 20.
    "part_source": (80, 128, 2e-4, {"linf": from_epoch({1: 0.01, 80: 0.001})}),
    "mart_source": (120, 128, 3.5e-3, {"linf": from_epoch({1: 0.01, 75: 1e-3, 90: 1e-4, 100: 1e-5})}),
    "fast_at_source": (15, 128, 5e-4, {"linf": triangle}),
    "at_linf_l2_source": (205, 128, 2e-4, {"multi": by_steps}),
    "at_max_source": (80, 128, 5e-4, {"multi": static}),
    "msd_source": (50, 128, 5e-4, {"multi": ahead}),
    "eat_source": (80, 128, 5e-4, {"multi": static}),
    "ramp_source": (80, 128, 5e-4, {"robust": static, "natural": static}),
    "rmc_source": (200, 128, 3e-4, {"linf": endpoint, "l2": endpoint, "middle": path}),
}
"""Epochs, images of a minibatch, weight decay, and the rate of each learner."""
EXEMPT = ("at_max_source", "eat_source", "ramp_source")
"""Whose sources keep weight decay off BatchNorm."""


@pytest.fixture(scope="module")
def params() -> Params:
    return composed("suite=cifar10", "recipes=sources")


def test_every_competitor_has_a_recipe(params: Params) -> None:
    assert [name for name in params.methods if name.endswith("_source")] == list(RECIPES)
    assert params.tables["recipes"].rows == list(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_sources(params: Params, name: str) -> None:
    epochs, batch, decay, rates = RECIPES[name]
    experiment = params.experiment(name, 1)
    assert (experiment.training.epochs, experiment.training.batch_size) == (epochs, batch)
    assert list(experiment.method.learners) == list(rates)
    for learner in experiment.method.learners.values():
        optimizer = learner.optimizer
        assert isinstance(optimizer, SGDSettings)
        assert optimizer.momentum == 0.9 and optimizer.decay_batch_norm == (name not in EXEMPT)
        assert decay in (optimizer.weight_decay, getattr(learner.objective, "weight_decay", None))
    unified = params.experiment(name.removesuffix("_source"), 1)
    assert unified.training.epochs == 120
    objectives = [entry.objective.name for entry in experiment.method.learners.values()]
    assert objectives == [entry.objective.name for entry in unified.method.learners.values()]


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_and_the_last_batch_of_every_epoch_have_the_sources_rate(params: Params, name: str) -> None:
    epochs, batch, _, rates = RECIPES[name]
    method, batches = params.methods[name], -(-IMAGES // batch)
    for key, rate in rates.items():
        settings = method.learners[key]
        rule = method.mixture or SingleSettings()
        trained = [epoch for epoch in range(1, epochs + 1) if rule.trains(key, epoch)]
        assert trained
        for epoch in trained:
            for number in (0, batches - 1):
                ours = settings.optimizer.learning_rate * settings.schedule.at(epoch, (number + 1) / batches)
                theirs = rate(epoch - 1, number, batches)
                assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-15), f"{key}, epoch {epoch}, batch {number}"


def test_self_training_sees_128_images_of_each_kind(params: Params) -> None:
    """Its objective replaces half of a minibatch."""
    assert RECIPES["rst_source"][1] == 2 * 128
    assert params.experiment("rst_source", 1).training.batch_size == 256
